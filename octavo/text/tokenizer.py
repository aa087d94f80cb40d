"""Tokenizer: text to ids and back, over the `tokenizers` library. Knows nothing of templates.

Two views of one vocabulary: in one, special strings ("<|im_end|>") become their ids; in the
other they are ordinary text. Which is used is the caller's decision, never the text's.
All methods may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import tokenizers

from octavo.checkpoint.gguf_header import read_header
from octavo.core.errors import UserError
from octavo.text.detokenizer import ByteDetokenizer, Detokenizer, WindowDetokenizer
from octavo.text.folder_vocab import read_folder
from octavo.text.gguf_vocab import read_gguf
from octavo.text.pieces import pieces_of
from octavo.text.vocabulary import Vocabulary


class Tokenizer:
    def __init__(self, vocabulary: Vocabulary) -> None:
        self._backend = vocabulary.backend
        self.source = vocabulary.source
        self.bos_token_id = vocabulary.bos
        self.pad_token_id = vocabulary.pad
        self.unk_token_id = vocabulary.unknown
        self.eos_token_ids = vocabulary.eos
        self.templates: Mapping[str, str] = vocabulary.templates
        added = self._backend.get_added_tokens_decoder()
        self.added: dict[int, tokenizers.AddedToken] = added
        self.special_ids = frozenset(id for id, token in added.items() if token.special)
        self.specials: dict[str, int] = {added[id].content: id for id in sorted(self.special_ids)}
        self._plain = _without_specials(self._backend, added)
        self._pieces = pieces_of(self._backend, {id: token.content for id, token in added.items()})

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        return cls(read_folder(Path(folder)))

    @classmethod
    def from_gguf(cls, path: str | Path) -> Tokenizer:
        return cls(read_gguf(read_header(path).metadata, str(path)))

    @classmethod
    def load(cls, where: str) -> Tokenizer:
        """From ModelFiles.tokenizer: a folder or a .gguf file."""
        return cls.from_folder(where) if Path(where).is_dir() else cls.from_gguf(where)

    # -- to ids ---------------------------------------------------------------------------

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """`add_special` puts the tokens around it that the model expects around a text (BOS);
        `parse_special` False reads special strings as ordinary text."""
        view = self._backend if parse_special else self._plain
        try:
            ids: list[int] = view.encode(text, add_special_tokens=add_special).ids
        except (TypeError, UnicodeError) as error:
            raise UserError(
                "the text is not valid Unicode: it has half of a surrogate pair", hint="send UTF-8"
            ) from error
        return ids

    def word_forms(self, word: str) -> list[tuple[int, ...]]:
        """Ids of a word at the start of a text, after a space, and after a line break: the ways
        it can come up in an output. Without duplicates."""
        forms = [self._bare(word.lstrip()), self._bare(" " + word.lstrip())]
        after_break, line_break = self._bare("\n" + word.lstrip()), self._bare("\n")
        if after_break[: len(line_break)] == line_break:
            forms.append(after_break[len(line_break) :])
        return [form for form in dict.fromkeys(forms) if form]

    def _bare(self, text: str) -> tuple[int, ...]:
        return tuple(self.encode(text, add_special=False))

    # -- to text --------------------------------------------------------------------------

    def decode(
        self, ids: Sequence[int], *, skip_special: bool = True, spaces_between_special: bool = True
    ) -> str:
        """The text of a whole. `spaces_between_special` exists for the callers' sake: tokens are
        never put apart by spaces here."""
        detokenizer = self.detokenizer(skip_special=skip_special, strip=True)
        return detokenizer.feed(ids) + detokenizer.close()

    def detokenizer(
        self, *, skip_special: bool = True, before: Sequence[int] = (), strip: bool = False
    ) -> Detokenizer:
        """A fresh stream. `before` is the prompt: its last tokens decide how the first ones of
        the output are joined to it. `strip` is for a text that begins here."""
        hidden = self.special_ids if skip_special else frozenset()
        if self._pieces is None:
            return WindowDetokenizer(self._decode_all, hidden, before=before)
        return ByteDetokenizer(self._pieces, hidden, before=before, strip=strip and self._pieces.strips)

    def token_bytes(self, id: int) -> bytes:
        """What one token stands for; b"" for an id without a meaning."""
        return self._decode_all([id]).encode() if self._pieces is None else self._pieces[id]

    def token_text(self, id: int) -> str:
        """For people: a token that is a part of a character shows as U+FFFD."""
        return self.token_bytes(id).decode("utf-8", "replace")

    def _decode_all(self, ids: list[int]) -> str:
        text: str = self._backend.decode(ids, skip_special_tokens=False)
        return text

    # -- the vocabulary -------------------------------------------------------------------

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id; the model's head may have more rows."""
        added = max(self.added, default=-1) + 1
        return max(int(self._backend.get_vocab_size(with_added_tokens=True)), added)

    @cached_property
    def vocab(self) -> dict[str, int]:
        return dict(self._backend.get_vocab(with_added_tokens=True))

    @cached_property
    def longest_token(self) -> int:
        """In characters: so many a token stands for at most."""
        return max(map(len, self.vocab), default=1)

    def token(self, id: int) -> str | None:
        """The token as the vocabulary writes it."""
        found: str | None = self._backend.id_to_token(id)
        return found

    def token_id(self, token: str) -> int | None:
        found: int | None = self._backend.token_to_id(token)
        return found

    def text_of(self, id: int | None) -> str:
        """The vocabulary's writing of a special token, "" when there is none."""
        return "" if id is None else self.token(id) or ""


def _without_specials(
    backend: tokenizers.Tokenizer, added: Mapping[int, tokenizers.AddedToken]
) -> tokenizers.Tokenizer:
    """A second view that shares the model and reads special strings as text."""
    plain = tokenizers.Tokenizer(backend.model)
    _share(backend, plain)
    _add(plain, (added[id] for id in sorted(added)))
    if any(plain.token_to_id(token.content) != id for id, token in added.items()):
        # ids with gaps cannot be given by adding in order; a copy keeps them, more slowly
        plain = tokenizers.Tokenizer.from_str(backend.to_str())
    plain.encode_special_tokens = True
    return plain


def _share(backend: tokenizers.Tokenizer, plain: tokenizers.Tokenizer) -> None:
    if backend.normalizer is not None:
        plain.normalizer = backend.normalizer
    if backend.pre_tokenizer is not None:
        plain.pre_tokenizer = backend.pre_tokenizer
    if backend.post_processor is not None:
        plain.post_processor = backend.post_processor


def _add(plain: tokenizers.Tokenizer, tokens: Iterable[tokenizers.AddedToken]) -> None:
    for token in tokens:
        (plain.add_special_tokens if token.special else plain.add_tokens)([token])
