"""A vocabulary of all bytes, some longer tokens, a special token and an end."""

from __future__ import annotations

from octavo.core.request import GrammarSpec
from octavo.grammar.backend import Matcher, Vocabulary
from octavo.grammar.guidance import GuidanceBackend

LONGER = [b"tr", b"true", b'{"', b'":', b"12", " \u00e9".encode(), b"<call>"]
SPECIAL, END = 256 + len(LONGER), 257 + len(LONGER)
VOCABULARY = Vocabulary(
    tokens=[*(bytes([n]) for n in range(256)), *LONGER, b"<tool>", b"<end>", b"", b""],
    special=[SPECIAL, END],
    eos=(END,),
    encode=lambda text: list(text.encode()),
)


def matcher(kind: str, text: str, whitespace: str | None = None) -> Matcher:
    return GuidanceBackend(VOCABULARY).compile(GrammarSpec(kind, text, whitespace))


def fits(one: Matcher, text: str) -> bool:
    """Whether the text, byte by byte, is a whole output. The matcher stays as it was."""
    fresh = one.copy()
    return all(fresh.accept(byte) for byte in text.encode()) and fresh.may_end


def allowed(one: Matcher) -> set[int]:
    bits = int.from_bytes(one.fill(), "little")
    return {token for token in range(len(VOCABULARY.tokens)) if bits >> token & 1}
