"""The process that stands in for the library (remote/) knows every function the library has."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from octavo.ops.cpu import lib
from octavo.ops.cpu.lib import Library
from tests.cpu.native.remote.calls import SOURCE, Calls


def declared() -> set[str]:
    """What abi.h exports."""
    header = Path(lib.__file__).with_name("abi.h").read_text()
    code = re.sub(r"//.*", "", header)
    return set(re.findall(r"\b(oct_\w+)\(", code))


def test_every_exported_function_is_carried_out_elsewhere() -> None:
    (listed,) = re.findall(r"#define CALLS\(X\)((?:.*\\\n)*.*\n)", SOURCE.read_text())
    assert {f"oct_{name}" for name in re.findall(r"X\((\w+)\)", listed)} == declared()
    assert {name for name in vars(Calls) if name.startswith("oct_")} == declared()


def test_every_exported_function_has_types(monkeypatch: pytest.MonkeyPatch, library: Library) -> None:
    """One without them would get pointers cut to 32 bits."""
    stand_ins: defaultdict[str, SimpleNamespace] = defaultdict(SimpleNamespace)
    monkeypatch.setattr(lib.ctypes, "CDLL", lambda path: _Everything(stand_ins))
    Library.open(library, Path("library.so"))
    assert set(stand_ins) == declared()


class _Everything:
    def __init__(self, functions: defaultdict[str, SimpleNamespace]) -> None:
        self._functions = functions

    def __getattr__(self, name: str) -> SimpleNamespace:
        return self._functions[name]


def test_levels_have_their_names(guarded: Library) -> None:
    names = [guarded.calls.oct_level_name(i) for i in range(len(lib.LEVELS))]
    assert names == [name.encode() for name in lib.LEVELS]
    assert guarded.calls.oct_level_name(-1) is None and guarded.calls.oct_level_name(len(lib.LEVELS)) is None
