"""One setting's value: from text, and within its limits. The same checks for flags, YAML and Python."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import types
import typing
from functools import cache
from typing import Any, NamedTuple

from octavo.config.option import Option, options
from octavo.core.errors import UserError

_THOUSANDS = {"k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_UNITS = {key.upper(): 1024**power for power, key in enumerate("kmgt", 1)}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kKmMgGtT])?(i?[bB])?\s*")


class Setting(NamedTuple):
    """A field of a config dataclass, ready to be read. `kind` is its Python type without None."""

    name: str
    option: Option
    kind: type
    optional: bool
    default: Any


@cache
def settings(part: type) -> tuple[Setting, ...]:
    """Every option of a config dataclass with its type resolved."""
    hints = typing.get_type_hints(part)
    return tuple(
        _setting(field.name, option, hints[field.name], field.default) for field, option in options(part)
    )


def _setting(name: str, option: Option, hint: Any, default: Any) -> Setting:
    united = isinstance(hint, types.UnionType)
    kinds = [kind for kind in (typing.get_args(hint) if united else [hint]) if kind is not type(None)]
    (kind,) = kinds
    return Setting(name, option, typing.get_origin(kind) or kind, united, default)


def flag(setting: Setting) -> str:
    """The setting's name on the command line."""
    return "--" + (setting.option.flag or setting.name.replace("_", "-"))


def size(text: str) -> int:
    """4096, 4k (4,000), 4K or 4KiB (4,096), 1.5g, 2GiB. ValueError for anything else."""
    found = _SIZE.fullmatch(text)
    if found is None or (found[3] in ("ib", "iB") and not found[2]):
        raise ValueError(text)
    unit = found[2] or ""
    power = (
        1
        if not unit
        else _UNITS[unit.upper()]
        if unit.isupper() or "i" in (found[3] or "")
        else _THOUSANDS[unit]
    )
    value = float(found[1]) * power
    if value != int(value):
        raise ValueError(text)
    return int(value)


def checked(setting: Setting, value: Any) -> Any:
    """`value` (text or a Python value) as the setting's type and within its limits.

    UserError names the setting, what it got, the limit and what would do.
    """
    if setting.optional and _means_none(setting, value):
        return None
    try:
        value = _convert(setting, value)
    except (TypeError, ValueError, RecursionError):
        raise _refused(setting, value, limits(setting)) from None
    if setting.option.spellings:
        value = _spelled(setting.option, value)
    if setting.option.choices and value not in setting.option.choices:
        raise _refused(setting, value, limits(setting), _close(str(value), setting.option.choices))
    if not _within(setting.option, value):
        raise _refused(setting, value, limits(setting))
    return value


def _means_none(setting: Setting, value: Any) -> bool:
    if value is None:
        return True
    automatic = setting.kind is int and setting.option.kind == "size"  # vLLM: --max-model-len auto or -1
    return automatic and str(value).strip().lower() in ("auto", "-1", "none")


def _convert(setting: Setting, value: Any) -> Any:
    if setting.option.kind == "json":
        return _object(value)
    if setting.kind is tuple:
        return _list(setting, value)
    if setting.kind is bool:
        return _boolean(value)
    if isinstance(value, bool):
        raise ValueError(value)
    if setting.kind is int:
        return _integer(setting, value)
    if setting.kind is float:
        return _number(value)
    if not isinstance(value, str):
        if type(value).__module__ == "torch":  # torch.bfloat16 and the like, named without importing torch
            return str(value).removeprefix("torch.")
        return os.fspath(value)
    return value


def _object(value: Any) -> dict[str, Any]:
    found = json.loads(value) if isinstance(value, str) else value
    if not isinstance(found, dict):
        raise ValueError(value)
    return found


def _list(setting: Setting, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = json.loads(value) if value.lstrip().startswith("[") else value.split(",")
    items = tuple(value)
    if setting.option.secret and all(isinstance(item, str) for item in items):
        items = tuple(part for item in items for part in item.split(","))
    if not all(isinstance(item, str) and item.strip() for item in items):
        raise ValueError(value)
    return items


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text not in ("true", "1", "yes", "false", "0", "no"):
        raise ValueError(value)
    return text in ("true", "1", "yes")


def _integer(setting: Setting, value: Any) -> int:
    if isinstance(value, str):
        return size(value) if setting.option.kind == "size" else int(value)
    if not isinstance(value, int):
        raise ValueError(value)
    return value


def _number(value: Any) -> float:
    found = float(value)
    if not math.isfinite(found):
        raise ValueError(value)
    return found


def _spelled(option: Option, value: Any) -> Any:
    """The choice meant by one of its other names."""
    return dict(option.spellings, **{name: name for name in option.choices}).get(str(value).lower(), value)


def _within(option: Option, value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return True
    return (option.low is None or value >= option.low) and (option.high is None or value <= option.high)


def limits(setting: Setting) -> str:
    """What the setting takes, in words."""
    option = setting.option
    if option.choices:
        return "one of " + ", ".join(option.choices)
    if option.kind == "json":
        return "a JSON object"
    if setting.kind is tuple:
        return "one or more names"
    if setting.kind in (int, float):
        noun = "a whole number" if setting.kind is int else "a number"
        noun += " (4k, 4KiB, 2GiB are understood)" if option.kind == "size" else ""
        return noun + _range(option)
    return "true or false" if setting.kind is bool else "text"


def _range(option: Option) -> str:
    if option.low is not None and option.high is not None:
        return f" from {option.low:g} to {option.high:g}"
    if option.low is not None:
        return f" of at least {option.low:g}"
    return f" of at most {option.high:g}" if option.high is not None else ""


def _close(value: str, choices: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(value, choices, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _refused(setting: Setting, value: Any, wanted: str, more: str = "") -> UserError:
    shown = "***" if setting.option.secret else repr(value)[:80]
    return UserError(
        f"{flag(setting)} cannot be {shown}", hint=f"it takes {wanted}{more}", field=setting.name
    )
