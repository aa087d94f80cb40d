"""What a grammar library must offer, and the vocabulary it is given. Knows no library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from octavo.core.request import GrammarSpec


class Vocabulary(NamedTuple):
    """What tokens stand for. `tokens` has one entry for each row of the output head, b"" where an id
    means nothing; `special` are ids that no text spells; `eos` is never empty."""

    tokens: Sequence[bytes]
    special: Sequence[int]
    eos: tuple[int, ...]
    encode: Callable[[str], list[int]]


class Matcher(Protocol):
    """One output on its way through a grammar. Never raises for what a grammar or a token is like."""

    def copy(self) -> Matcher:
        """An independent matcher in the same state."""

    def accept(self, token: int) -> bool:
        """Takes one more token; False, and nothing changes, when it does not fit."""

    def rollback(self, count: int) -> None:
        """Takes back the last `count` tokens."""

    def fill(self) -> bytes:
        """The tokens that may follow: little-endian bits, ceil(vocab / 32) int32 words. End tokens are
        among them where the output may end."""

    def forced(self) -> Sequence[int]:
        """Tokens that must follow, each the only one its mask allows; empty where there is a choice,
        or where the library cannot tell."""

    @property
    def may_end(self) -> bool:
        """The output fits as it is."""

    @property
    def error(self) -> str | None:
        """Why it cannot go on (a limit of the library), None while it can."""


class GrammarBackend(Protocol):
    """Compiles for one vocabulary; from any thread."""

    def compile(self, spec: GrammarSpec) -> Matcher:
        """A matcher at the beginning. UserError says what is wrong with the grammar."""
