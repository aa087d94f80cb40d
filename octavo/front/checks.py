"""Checks of single values that came from outside. Each error names field, limit and remedy.

Values are never printed whole: they may be large or secret.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from octavo.core.errors import UserError

INT32 = (1 << 31) - 1
MOST_BIASES = 4096


def integer(field: str, value: Any, low: int, high: int) -> int:
    """An int (or numpy's), not a bool or a float."""
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, Integral)):
        raise UserError(f"{field} is {_kind(value)}, not an integer", hint=_range(low, high), field=field)
    if not low <= (plain := int(value)) <= high:
        raise UserError(f"{field} is {_short(plain)}", hint=_range(low, high), field=field)
    return plain


def number(
    field: str, value: Any, low: float | None = None, high: float | None = None, above: float | None = None
) -> float:
    """A finite number in [low, high]; `above` excludes its own value."""
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, Real)):
        hint = _interval(low, high, above)
        raise UserError(f"{field} is {_kind(value)}, not a number", hint=hint, field=field)
    try:
        as_float = float(value)
    except OverflowError:
        as_float = math.inf
    inside = (
        math.isfinite(as_float)
        and (low is None or as_float >= low)
        and (high is None or as_float <= high)
        and (above is None or as_float > above)
    )
    if not inside:
        hint = _interval(low, high, above)
        raise UserError(f"{field} is {_short(as_float)}", hint=hint, field=field)
    return as_float


def maybe(check: Callable[..., Any], field: str, value: Any, *limits: Any) -> Any:
    return None if value is None else check(field, value, *limits)


def switch(field: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{field} is {_kind(value)}", hint="true or false", field=field)
    return value


def texts(field: str, value: Any, *, most: int, longest: int) -> list[str]:
    """One text or a list of them, none empty."""
    rows = [value] if isinstance(value, str) else [] if value is None else value
    _count(field, rows, most)
    for at, row in enumerate(rows):
        if not isinstance(row, str):
            raise UserError(f"{field}[{at}] is {_kind(row)}", hint="a list of texts", field=field)
        if not row.strip() and (not row or field == "bad_words"):
            raise UserError(f"{field}[{at}] is empty", hint="leave it out", field=field)
        if len(row) > longest:
            raise UserError(
                f"{field}[{at}] has {len(row)} characters", hint=f"at most {longest}", field=field
            )
    return list(rows)


def token_ids(field: str, value: Any, *, most: int, empty: bool = True) -> list[int]:
    """Non-negative ids; whether the vocabulary has them is checked with the model at hand."""
    _count(field, value, most)
    if not value and not empty:
        raise UserError(f"{field} is empty", hint="leave it out or name at least one id", field=field)
    return [integer(f"{field}[{at}]", id, 0, INT32) for at, id in enumerate(value)]


def bias(field: str, value: Any) -> dict[int, float]:
    """{id: bias}; JSON's keys are text, so digits are read as ids."""
    if not isinstance(value, Mapping):
        raise UserError(f"{field} is {_kind(value)}, not an object", hint='{"id": bias}', field=field)
    if len(value) > MOST_BIASES:
        raise UserError(f"{field} has {len(value)} entries", hint=f"at most {MOST_BIASES}", field=field)
    return {_bias_id(field, key): number(f"{field}[{key!r:.20}]", one) for key, one in value.items()}


def _bias_id(field: str, key: Any) -> int:
    if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 10:
        key = int(key)
    return integer(f"{field} key", key, 0, INT32)


def _count(field: str, value: Any, most: int) -> None:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise UserError(f"{field} is {_kind(value)}", hint=f"a list of at most {most}", field=field)
    if len(value) > most:
        raise UserError(f"{field} has {len(value)} entries", hint=f"at most {most}", field=field)


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", str: "text", dict: "an object", list: "a list"}
    return names.get(type(value), f"of type {type(value).__name__}")


def _short(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a huge number"  # printing it could take long
    return f"{value:g}" if isinstance(value, float) else str(value)


def _range(low: int, high: int) -> str:
    return f"an integer from {low} to {high}"


def _interval(low: float | None, high: float | None, above: float | None) -> str:
    left = f"above {above:g}" if above is not None else f"at least {low:g}" if low is not None else ""
    right = f"at most {high:g}" if high is not None else ""
    return ", ".join(["a finite number", *(part for part in (left, right) if part)])
