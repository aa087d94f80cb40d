"""Objects of any form that came from outside and travel on to who knows their meaning: copied while they
are checked, so that they can be sent and nobody can change them later. Bounded in count, text and depth."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

from octavo.core.errors import UserError

MOST_VALUES = 1024
MOST_CHARACTERS = 1 << 16
DEEPEST = 8
_INTEGERS = range(-(1 << 63), 1 << 63)


def copied(field: str, value: Any) -> dict[str, Any]:
    """An object of texts, numbers, booleans, lists and objects. UserError says what in it cannot be."""
    if not isinstance(value, Mapping):
        raise UserError(
            f"{field} is of type {type(value).__name__}, not an object", hint='{"name": value}', field=field
        )
    return _Copy(field).of_mapping(value, DEEPEST)


class _Copy:
    """One copy in the making, and how much more it may hold."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._values = MOST_VALUES
        self._characters = MOST_CHARACTERS

    def of_mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        return {self._name(key): self._of(one, depth - 1) for key, one in value.items()}

    def _of(self, value: Any, depth: int) -> Any:
        self._values -= 1
        if self._values < 0:
            raise self._error("has too many values", f"at most {MOST_VALUES}")
        if isinstance(value, Mapping | list | tuple):
            if not depth:
                raise self._error("is nested too deeply", f"at most {DEEPEST} levels")
            if isinstance(value, Mapping):
                return self.of_mapping(value, depth)
            return [self._of(one, depth - 1) for one in value]
        return self._text(value) if isinstance(value, str) else self._atom(value)

    def _atom(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | float):
            return value
        if not isinstance(value, Integral):
            kinds = "texts, numbers, booleans, lists and objects"
            raise self._error(f"holds a value of type {type(value).__name__}", kinds)
        if int(value) not in _INTEGERS:
            raise self._error("holds a huge number", "integers of 64 bits")
        return int(value)

    def _name(self, key: Any) -> str:
        if not isinstance(key, str):
            raise self._error(f"has a name of type {type(key).__name__}", "names are texts")
        return self._text(key)

    def _text(self, value: str) -> str:
        self._characters -= len(value)
        if self._characters < 0:
            raise self._error("holds too much text", f"at most {MOST_CHARACTERS} characters in all")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self._error("holds half of a surrogate pair", "send valid Unicode") from None
        return value

    def _error(self, what: str, hint: str) -> UserError:
        return UserError(f"{self._field} {what}", hint=hint, field=self._field)
