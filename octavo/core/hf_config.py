"""A typed reader of config.json: every odd value is reported with its key and file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from octavo.core.errors import ArtefactError

_MISSING = object()
_LIMIT = 8 << 20  # bytes; a config.json is a few KB
_REMEDY = "fetch the file again"
_ADD = "fetch the model again, or add it with --hf-overrides"


def _finite(value: float) -> bool:
    return -1e300 < value < 1e300  # false for NaN, and for integers too large for a float


class HFConfig:
    """Read-only view of a Hugging Face configuration (or of GGUF metadata in its shape)."""

    def __init__(self, data: Mapping[str, Any], source: str = "config.json") -> None:
        self._data = data
        self.source = source

    @classmethod
    def load(cls, path: Path) -> HFConfig:
        """Reads a JSON file. ArtefactError when it is missing, too large or not an object."""
        try:
            if path.stat().st_size > _LIMIT:
                raise ArtefactError(f"{path} is larger than {_LIMIT >> 20} MiB", hint=_REMEDY)
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ArtefactError(f"{path} does not exist", hint="a model folder needs config.json") from None
        except (OSError, ValueError) as error:
            raise ArtefactError(f"{path} is not readable JSON: {error}", hint=_REMEDY) from error
        except RecursionError:
            raise ArtefactError(f"{path} is nested too deeply", hint=_REMEDY) from None
        if not isinstance(data, dict):
            raise ArtefactError(f"{path} holds {type(data).__name__}, not an object", hint=_REMEDY)
        return cls(data, str(path))

    @property
    def architecture(self) -> str:
        names = self._data.get("architectures")
        if not isinstance(names, list) or not names or not isinstance(names[0], str):
            raise self._odd("architectures", names, "a list with one class name")
        return names[0]

    def has(self, key: str) -> bool:
        return self._data.get(key) is not None

    def raw(self, key: str, default: Any = None) -> Any:
        value = self._data.get(key)
        return default if value is None else value

    def integer(self, key: str, default: Any = _MISSING, *, low: int = 1, high: int = 1 << 31) -> int:
        if self._left_out(key, default):
            return default  # type: ignore[no-any-return]
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._odd(key, value, f"an integer in [{low}, {high}]")
        return value

    def number(self, key: str, default: Any = _MISSING, *, above: float | None = None) -> float:
        """A finite number, greater than `above` where that is given."""
        if self._left_out(key, default):
            return default  # type: ignore[no-any-return]
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
            raise self._odd(key, value, "a finite number")
        if above is not None and value <= above:
            raise self._odd(key, value, f"a number above {above:g}")
        return float(value)

    def flag(self, key: str, default: Any = _MISSING) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._odd(key, value, "true or false")
        return value

    def text(self, key: str, default: Any = _MISSING) -> str:
        value = self._get(key, default)
        if not isinstance(value, str) and not self._left_out(key, default):
            raise self._odd(key, value, "a string")
        return value  # type: ignore[no-any-return]

    def choice(self, key: str, choices: Mapping[str, Any] | tuple[str, ...], default: Any = _MISSING) -> str:
        value = self._get(key, default)
        if not isinstance(value, str) or value not in choices:
            raise self._odd(key, value, "one of " + ", ".join(choices))
        return value  # type: ignore[no-any-return]

    def ids(self, key: str) -> tuple[int, ...]:
        """A token id, a list of them, or nothing."""
        value = self._data.get(key)
        if value is None:
            return ()
        values = value if isinstance(value, list) else [value]
        if any(isinstance(v, bool) or not isinstance(v, int) or v < 0 for v in values):
            raise self._odd(key, value, "a token id or a list of them")
        return tuple(values)

    def overlaid(self, values: Mapping[str, Any]) -> HFConfig:
        """A copy with `values` laid over it; objects are merged, everything else replaced."""
        merged = dict(self._data)
        for key, value in values.items():
            old = merged.get(key)
            merged[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
        return HFConfig(merged, self.source)

    def sub(self, key: str) -> HFConfig:
        value = self._get(key, _MISSING)
        if not isinstance(value, dict):
            raise self._odd(key, value, "an object")
        return HFConfig(value, f"{self.source}:{key}")

    def _left_out(self, key: str, default: Any) -> bool:
        """Whether the default stands. Not told by comparing: the file may hold the very same value."""
        return default is not _MISSING and not self.has(key)

    def _get(self, key: str, default: Any) -> Any:
        value = self._data.get(key)
        if value is not None:
            return value
        if default is _MISSING:
            raise ArtefactError(f"{self.source} lacks {key!r}", hint=_ADD, field=key)
        return default

    def _odd(self, key: str, value: object, wanted: str) -> ArtefactError:
        return ArtefactError(f"{self.source}: {key!r} is {value!r:.80}", hint=f"expected {wanted}", field=key)
