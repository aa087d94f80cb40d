"""Answers that go round in circles: found as they come, token by token. Knows no text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from octavo.core.errors import UserError
from octavo.front import checks

FIELD = "repetition_detection"
LONGEST = 256  # tokens of a pattern: every size is looked at for each token that comes


class RepetitionDetectionParams(msgspec.Struct, kw_only=True, frozen=True, repr_omit_defaults=True):
    """An answer ends when its last tokens are one pattern `min_count` times, of `min_pattern_size` to
    `max_pattern_size` tokens (vLLM's names). A largest size of 0: none is looked for."""

    max_pattern_size: int = 0
    min_pattern_size: int = 0
    min_count: int = 0

    def __post_init__(self) -> None:
        most = checks.integer(f"{FIELD}.max_pattern_size", self.max_pattern_size, 0, LONGEST)
        checks.integer(f"{FIELD}.min_pattern_size", self.min_pattern_size, 0, most)
        checks.integer(f"{FIELD}.min_count", self.min_count, 2 if most else 0, checks.INT32)

    @classmethod
    def of(cls, value: Any) -> RepetitionDetectionParams | None:
        """From what a caller gives: nothing, an instance, or a mapping of its fields."""
        if value is None or isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            names = ", ".join(cls.__struct_fields__)
            raise UserError(f"{FIELD} is not an object", hint=f"an object with {names}", field=FIELD)
        if unknown := [str(key)[:40] for key in value if key not in cls.__struct_fields__]:
            hint = f"known: {', '.join(cls.__struct_fields__)}"
            raise UserError(f"{FIELD} has no {unknown[0]!r}", hint=hint, field=FIELD)
        return cls(**{key: one for key, one in value.items() if one is not None})


class Repetition:
    """Watches one answer: for each size, how many of the last tokens stood one pattern earlier, too."""

    def __init__(self, asked: RepetitionDetectionParams) -> None:
        sizes = range(max(1, asked.min_pattern_size), asked.max_pattern_size + 1)
        self._equal = dict.fromkeys(sizes, 0)
        self._count = asked.min_count
        self._said: list[int] = []

    def feed(self, token: int) -> bool:
        """Whether the answer goes round in circles now."""
        found, said = False, self._said
        for size, equal in self._equal.items():
            again = size <= len(said) and said[-size] == token
            self._equal[size] = equal + 1 if again else 0
            found |= self._equal[size] >= size * (self._count - 1)
        said.append(token)
        return found


def first(watch: Repetition, tokens: Sequence[int], armed: int) -> int | None:
    """At which of the tokens it is found, of those from place `armed` on."""
    places = [at for at, token in enumerate(tokens) if watch.feed(token) and at >= armed]
    return places[0] if places else None
