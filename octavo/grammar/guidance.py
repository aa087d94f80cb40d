"""llguidance behind the backend protocol. The only file that knows the library.

Imported when the first grammar is asked for. The library computes a mask from a trie of the
vocabulary in some tens of microseconds, releases the interpreter while it does, and bounds its own
work; copies of a matcher share what was learned about the grammar.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import llguidance
from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark

from octavo.core.errors import UserError
from octavo.core.request import GrammarSpec
from octavo.grammar.backend import Vocabulary
from octavo.grammar.gaps import gap
from octavo.grammar.tags import TagGrammar, Terms

# The library's limits count its own steps: they bound memory (1 to 2 kB a state) and the time of one
# mask, which is some ten microseconds in practice and 0.1 s for the worst grammar that was tried.
_LIMITS = llguidance.LLParserLimits(
    max_grammar_size=200_000,
    max_lexer_states=50_000,
    initial_lexer_fuel=1_000_000,
    step_max_items=20_000,
    verbose_errors=False,
)
# One or two spaces, or a line break and an indent: small models fill their answers with blanks if they may.
_WHITESPACE = r" {1,2}|\r?\n[ \t]{0,32}"
# No \u: a name could be spelled with it, and the library would not see that the name has a schema.
_ESCAPES = '"\\nrtbf'


class GuidanceMatcher:
    """A thin coat: rejected tokens leave it as it was. `width` is the length of a mask in bytes."""

    def __init__(self, inner: LLMatcher, width: int) -> None:
        self._inner = inner
        self._width = width

    def copy(self) -> GuidanceMatcher:
        return GuidanceMatcher(self._inner.deep_copy(), self._width)

    def accept(self, token: int) -> bool:
        return self._inner.try_consume_tokens([token]) == 1

    def rollback(self, count: int) -> None:
        if count:
            self._inner.rollback(count)

    def fill(self) -> bytes:
        return self._inner.compute_bitmask()[: self._width]  # the library may add a word

    def forced(self) -> Sequence[int]:
        tokens: list[int] = self._inner.compute_ff_tokens()
        return tokens

    @property
    def may_end(self) -> bool:
        return self._inner.is_accepting()

    @property
    def error(self) -> str | None:
        if not self._inner.is_error():
            return None
        why = _first_line(self._inner.get_error())
        return why if " " in why else f"nothing fits the grammar ({why})"


class GuidanceBackend:
    """Building the trie of a large vocabulary takes about half a second."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._width = -(-len(vocabulary.tokens) // 32) * 4
        self._specials = [vocabulary.tokens[id].decode("utf-8", "replace") for id in vocabulary.special]
        self._tokenizer = llguidance.LLTokenizer(
            _Wrapper(vocabulary),  # type: ignore[arg-type]  # the library asks for these attributes only
            n_vocab=len(vocabulary.tokens),
            eos_token=list(vocabulary.eos),
            slices=llguidance.LLTokenizer.json_slices(),
        )

    def compile(self, spec: GrammarSpec) -> GuidanceMatcher:
        matcher = LLMatcher(self._tokenizer, to_native(spec, self._specials), log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise UserError(_first_line(matcher.get_error()), hint="simplify the grammar")
        return GuidanceMatcher(matcher, self._width)


class _Wrapper:
    """The vocabulary as the library reads it. Where only one text can follow, the library asks for its
    tokens and builds the mask on them: they must spell the text byte for byte."""

    is_tokenizer_wrapper = True

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = list(vocabulary.tokens)
        self.special_token_ids = list(vocabulary.special)
        self.eos_token_id = vocabulary.eos[0]
        self.bos_token_id = None
        self._encode = vocabulary.encode
        hidden = {*vocabulary.special, *vocabulary.eos}
        self._ids = {one: id for id, one in enumerate(self.tokens) if one and id not in hidden}
        self._longest = max(map(len, self._ids))

    def __call__(self, text: bytes | str) -> list[int]:
        data = text if isinstance(text, bytes) else text.encode()
        ids = self._encode(data.decode("utf-8", "replace"))
        return ids if b"".join(self.tokens[id] for id in ids) == data else self._spell(data)

    def _spell(self, data: bytes) -> list[int]:
        """By the longest token each time: a tokenizer may put a space before a text, or clean it."""
        ids: list[int] = []
        at = 0
        while at < len(data):
            ends = range(min(len(data), at + self._longest), at, -1)
            end = next((end for end in ends if data[at:end] in self._ids), None)
            if end is None:  # the vocabulary lacks this byte: no output can go on here
                break
            ids.append(self._ids[data[at:end]])
            at = end
        return ids


def problem(spec: GrammarSpec) -> str | None:
    """What is wrong with a grammar, for any vocabulary; None when nothing is."""
    try:
        native = to_native(spec)
    except UserError as error:
        return error.message
    broken, told = LLMatcher.validate_grammar_with_warnings(native, limits=_LIMITS)
    return _first_line(told[0]) if broken else None


def to_native(spec: GrammarSpec, specials: Collection[str] = ()) -> str:
    """The grammar as the library wants it. UserError when it cannot even be read."""
    if spec.kind == "json":
        _refuse_gaps(json.loads(spec.text))
        return LLMatcher.grammar_from_json_schema(spec.text, overrides=_json_options(spec))
    if spec.kind == "regex":
        return LLMatcher.grammar_from_regex(spec.text)
    return LLMatcher.grammar_from_lark(_to_lark(spec, specials))


def _to_lark(spec: GrammarSpec, specials: Collection[str]) -> str:
    if spec.kind == "choice":
        choices: Sequence[str] = json.loads(spec.text)
        return "start: CHOICE\nCHOICE: " + " | ".join(map(quoted, choices))
    if spec.kind == "ebnf":
        try:
            return gbnf_to_lark(spec.text)
        except Exception as error:  # the library raises that very class for a rule that is missing
            raise UserError(f"not EBNF: {_first_line(str(error))}") from error
    if spec.kind == "structural_tag":
        schema = partial(_inline_schema, spec=spec)
        return TagGrammar(specials, Terms(quoted, _inline_regex, schema)).read(spec.text)
    assert spec.kind == "lark", f"unknown kind {spec.kind!r}"
    return spec.text


def _json_options(spec: GrammarSpec) -> Any:
    common = {"lenient": False, "json_allowed_escapes": _ESCAPES}
    if spec.whitespace == "":
        return {**common, "whitespace_flexible": False}
    return {**common, "whitespace_pattern": spec.whitespace or _WHITESPACE}


def _inline_schema(schema: Any, spec: GrammarSpec) -> str:
    """A JSON schema as a term of a Lark grammar."""
    _refuse_gaps(schema)
    if isinstance(schema, dict):
        schema = {**schema, "x-guidance": _json_options(spec)}
    return f"%json {json.dumps(schema, ensure_ascii=False)}"


def _refuse_gaps(schema: Any) -> None:
    if (why := gap(schema)) is not None:
        raise UserError(why)


def _inline_regex(pattern: str) -> str:
    return f"/{llguidance.regex_to_lark(pattern)}/"


def quoted(text: str) -> str:
    """A text as a Lark string, which has JSON's escapes."""
    return json.dumps(text, ensure_ascii=False)


def _first_line(message: str) -> str:
    """The library's message without the state it adds below; a regex error keeps its reason."""
    head, _, rest = message.partition("\n")
    reason = rest.rpartition("error: ")[2].strip().splitlines() if "error: " in rest else []
    return " ".join([head, *reason[:1]])[:500]
