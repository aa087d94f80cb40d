"""A tokenizer out of a GGUF file's metadata. Knows nothing of tensors.

Two kinds of vocabulary: "gpt2" (byte-level BPE with merges, its text split beforehand by one of
the known pre-tokenizers) and "llama" (SentencePiece: scores, byte fallback). The file is
untrusted: every list is checked before it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from octavo.core.errors import ArtefactError, Unsupported
from octavo.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)

_PREFIX = "tokenizer.ggml."
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_MOST_TOKENS = 4 << 20
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
_NAMED = (*_ENDS, "bos_token_id", "padding_token_id", "unknown_token_id")
_SPACE = "\u2581"

# How words are cut before merging, by the names GGUF files use. The patterns are part of each
# vocabulary's definition: another pattern would give other ids.
_WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _WORD + r"\p{N}{1,3}" + _REST
_QWEN2 = _WORD + r"\p{N}" + _REST
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
)
_TEKKEN = _CASED + r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = (
    "|".join(part + _CONTRACTED for part in _CASED.rstrip("|").split("|"))
    + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS = {"llama3": _LLAMA3, "dbrx": _LLAMA3, "qwen2": _QWEN2, "tekken": _TEKKEN, "gpt4o": _GPT4O}
_KINDS: dict[str, tuple[str, ...]] = {
    "gpt2": ("default", "gpt-2", "gpt2", "mpt", "olmo", "jais", "phi-2", "roberta-bpe"),
    "digits": ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
    "llama3": ("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral"),
    "dbrx": ("dbrx", "smaug-bpe"),
    "qwen2": ("qwen2", "deepseek-r1-qwen", "stablelm2", "megrez"),
    "tekken": ("tekken",),
    "gpt4o": ("gpt-4o", "llama4"),
}
_WHOLE_WORDS = ("llama3", "tekken")  # a word that is a token is taken as it is; files imply BOS
_PRE = {name: kind for kind, names in _KINDS.items() for name in names}


def read_gguf(metadata: Mapping[str, Any], source: str) -> Vocabulary:
    """ArtefactError for lists that are missing or do not fit together, Unsupported for a kind of
    vocabulary we cannot build."""
    reader = _Reader(metadata, source)
    kind = reader.text("model")
    if kind == "gpt2":
        backend = _byte_level(reader)
    elif kind == "llama":
        backend = _sentence_piece(reader)
    else:
        raise Unsupported(
            f"{source}: tokenizers of kind {kind!r:.40} are not read from GGUF",
            hint="name a tokenizer.json folder with --tokenizer",
            field="tokenizer",
        )
    _add_tokens(backend, reader)
    _add_borders(backend, reader, bos_by_default=kind == "llama" or _kind(reader) in _WHOLE_WORDS)
    return Vocabulary(
        backend=backend,
        source=source,
        bos=reader.id("bos_token_id"),
        eos=reader.ends(),
        pad=reader.id("padding_token_id"),
        unknown=reader.id("unknown_token_id"),
        templates=_templates(metadata),
    )


class _Reader:
    """Typed access to the tokenizer's part of the metadata."""

    def __init__(self, metadata: Mapping[str, Any], source: str) -> None:
        self._metadata = metadata
        self.source = source
        self.tokens = self._list("tokens", str)
        if not 0 < len(self.tokens) <= _MOST_TOKENS:
            raise self.bad("tokens", f"has {len(self.tokens)} entries")
        types = self._list("token_type", int, optional=True)
        self.types = types or [_NORMAL] * len(self.tokens)
        if len(self.types) != len(self.tokens):
            raise self.bad("token_type", f"has {len(self.types)} entries for {len(self.tokens)} tokens")

    def merges(self) -> list[tuple[str, str]]:
        pairs = [tuple(merge.split(" ", 1)) for merge in self._list("merges", str)]
        if any(len(pair) != 2 for pair in pairs):
            raise self.bad("merges", "has an entry that is not two tokens")
        return pairs  # type: ignore[return-value]

    def scores(self) -> Sequence[float]:
        scores = self._list("scores", float)
        if len(scores) != len(self.tokens):
            raise self.bad("scores", f"has {len(scores)} entries for {len(self.tokens)} tokens")
        return scores

    def text(self, key: str, default: str | None = None) -> str:
        value = self._metadata.get(_PREFIX + key, default)
        if not isinstance(value, str):
            raise self.bad(key, "is missing" if value is None else "is not text")
        return value

    def flag(self, key: str, default: bool) -> bool:
        return bool(self._metadata.get(_PREFIX + key, default))

    def id(self, key: str) -> int | None:
        value = self._metadata.get(_PREFIX + key)
        if value is None:
            return None
        if not isinstance(value, int) or not 0 <= value < len(self.tokens):
            raise self.bad(key, f"is {value!r:.40}, not an id below {len(self.tokens)}")
        return value

    def ends(self) -> tuple[int, ...]:
        ids = [self.id(key) for key in _ENDS]
        return tuple(dict.fromkeys(id for id in ids if id is not None))

    def bad(self, key: str, what: str) -> ArtefactError:
        return ArtefactError(
            f"{self.source}: {_PREFIX}{key} {what}", hint="fetch the file again", field="tokenizer"
        )

    def _list(self, key: str, kind: type, optional: bool = False) -> list[Any]:
        values = self._metadata.get(_PREFIX + key)
        if values is None and optional:
            return []
        if isinstance(values, str | bytes) or not isinstance(values, Sequence):
            raise self.bad(key, "is missing" if values is None else "is not a list")
        if not all(isinstance(value, kind) for value in values):
            raise self.bad(key, f"is not a list of {kind.__name__}")
        return list(values)


def _byte_level(reader: _Reader) -> Tokenizer:
    vocab = {token: id for id, token in enumerate(reader.tokens)}
    kind = _kind(reader)
    if kind is None:
        name = reader.text("pre")
        log.warning("%s: unknown pre-tokenizer %.40r; words are cut as in GPT-2", reader.source, name)
    backend = Tokenizer(_bpe(reader, vocab, reader.merges(), ignore_merges=kind in _WHOLE_WORDS))
    backend.pre_tokenizer = _pre_tokenizer(kind or "gpt2")
    if kind == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    return backend


def _kind(reader: _Reader) -> str | None:
    return _PRE.get(reader.text("pre", "default"))


def _bpe(reader: _Reader, vocab: dict[str, int], merges: list[tuple[str, str]], **more: Any) -> models.BPE:
    try:
        return models.BPE(vocab=vocab, merges=merges, **more)
    except Exception as error:  # the library raises bare Exception
        raise reader.bad("merges", f"does not fit the tokens: {str(error)[:200]}") from error


def _pre_tokenizer(kind: str) -> Any:
    byte_level = pre_tokenizers.ByteLevel
    if kind == "gpt2":
        return byte_level(add_prefix_space=False, use_regex=True)
    if kind == "digits":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, byte_level(add_prefix_space=False, use_regex=True)])
    split = pre_tokenizers.Split(Regex(_PATTERNS[kind]), behavior="isolated")
    return pre_tokenizers.Sequence([split, byte_level(add_prefix_space=False, use_regex=False)])


def _sentence_piece(reader: _Reader) -> Tokenizer:
    vocab = {token: id for id, token in enumerate(reader.tokens)}
    unknown = reader.id("unknown_token_id")
    backend = Tokenizer(
        _bpe(
            reader,
            vocab,
            _merges_from_scores(reader, vocab),
            unk_token=None if unknown is None else reader.tokens[unknown],
            fuse_unk=True,
            byte_fallback=_BYTE in reader.types,
        )
    )
    prefix = reader.flag("add_space_prefix", True)
    replace = normalizers.Replace(" ", _SPACE)
    prepend = [normalizers.Prepend(_SPACE)] if prefix else []
    backend.normalizer = normalizers.Sequence([*prepend, replace])
    steps: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        steps.append(decoders.Strip(content=" ", left=1, right=0))
    backend.decoder = decoders.Sequence(steps)
    return backend


def _merges_from_scores(reader: _Reader, vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """SentencePiece joins the pair whose union scores highest; as merges, best first."""
    scores = reader.scores()
    found: list[tuple[float, int, int, str, str]] = []
    for id, token in enumerate(reader.tokens):
        if reader.types[id] not in (_NORMAL, _UNUSED) or len(token) > 256:
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocab and right in vocab:
                found.append((-scores[id], vocab[left], vocab[right], left, right))
    found.sort()
    return [(left, right) for _, _, _, left, right in found]


def _add_tokens(backend: Tokenizer, reader: _Reader) -> None:
    """Control tokens, and those the file names for a purpose, become special ones; user-defined
    tokens are matched but ordinary."""
    named = {reader.id(key) for key in _NAMED}
    special, ordinary = [], []
    for id, (token, kind) in enumerate(zip(reader.tokens, reader.types, strict=True)):
        if token and (kind in (_CONTROL, _UNKNOWN) or id in named):
            special.append(AddedToken(token, special=True, normalized=False))
        elif token and kind == _USER:
            ordinary.append(AddedToken(token, special=False, normalized=False))
    backend.add_special_tokens(special)
    backend.add_tokens(ordinary)


def _add_borders(backend: Tokenizer, reader: _Reader, bos_by_default: bool) -> None:
    bos, ends = reader.id("bos_token_id"), reader.ends()
    head = [bos] if bos is not None and reader.flag("add_bos_token", bos_by_default) else []
    tail = [ends[0]] if ends and reader.flag("add_eos_token", False) else []
    if not head and not tail:
        return
    # a processor names its tokens; these names never meet text, so any would do
    single = " ".join([*("[HEAD]" for _ in head), "$A", *("[TAIL]" for _ in tail)])
    backend.post_processor = processors.TemplateProcessing(
        single=single,
        special_tokens=[*(("[HEAD]", id) for id in head), *(("[TAIL]", id) for id in tail)],
    )


def _templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The default template and those with a name ("tokenizer.chat_template.tool_use")."""
    start = "tokenizer.chat_template"
    named = {key[len(start) :].lstrip(".") or "default": key for key in metadata if key.startswith(start)}
    return {
        name: metadata[key] for name, key in named.items() if isinstance(metadata[key], str) and name != "s"
    }
