"""Where nothing can be compiled there is a reason, not a crash."""

from __future__ import annotations

import re
import subprocess
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace

import pytest

from octavo.ops.cpu import build, find
from octavo.ops.cpu.lib import LEVELS, Engine, Library, NativeError
from tests.cpu.native.tiles import library_here


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with pytest.raises(build.BuildError, match=r"no C\+\+ compiler"):
        build.library(tmp_path)
    monkeypatch.setattr(find, "library", build.library)
    monkeypatch.setenv("OCTAVO_HOME", str(tmp_path))
    find.find_library.cache_clear()
    try:
        assert "compiler" in str(find.find_library())
    finally:
        find.find_library.cache_clear()


def fake_compiler(monkeypatch: pytest.MonkeyPatch, refuse: str) -> None:
    def call(command: list[str], **_: object) -> SimpleNamespace:
        line = " ".join(map(str, command))
        if "--version" in command:
            return SimpleNamespace(stdout=b"fake 1\n", returncode=0, stderr="")
        if refuse in line:
            return SimpleNamespace(returncode=1, stderr="unknown option")
        Path(command[command.index("-o") + 1]).write_text(line)
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(build.shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", call)


def test_levels_the_compiler_does_not_know_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
    fake_compiler(monkeypatch, refuse="-mavx512bf16")
    line = build.library(tmp_path).read_text()
    assert "avx512-rows.o" in line and "avx512_bf16" not in line and "amx" not in line


def test_a_broken_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_compiler(monkeypatch, refuse="portable")
    with pytest.raises(build.BuildError, match="unknown option"):
        build.library(tmp_path)
    assert not list(tmp_path.glob("*.so"))


def test_an_arm_library_has_its_own_levels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_compiler(monkeypatch, refuse="-march=")
    for machine in ("aarch64", "arm64"):
        assert [level.name for level in build.levels(machine)] == ["portable", "neon", "neon_dotprod"]
        line = build.library(tmp_path, machine=machine).read_text()
        assert "neon-rows.o" in line and "neon_dotprod" not in line and "avx" not in line
    assert [level.name for level in build.levels("riscv64")] == ["portable"]


_NEEDS = {
    "portable": set[str](),
    "avx2": {"avx2", "fma", "f16c"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
    "avx512_bf16": {"avx512_bf16"},
    "amx": {"avx512_bf16"},  # where the CPU has no tiles, these tests bring them
    "neon": {"asimd"},
    "neon_dotprod": {"asimddp"},
}  # and what those before need


def test_every_level_of_this_cpu_is_there() -> None:
    """One that the compiler refused is left out without a word, and so would be its tests."""
    flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text()))
    known = [level.name for level in build.levels(build.platform.machine())]
    assert Library(library_here()).levels == tuple(takewhile(lambda name: _NEEDS[name] <= flags, known))


def test_levels_of_other_processors_are_refused(library: Library) -> None:
    assert library.level in library.levels and library.levels[0] == "portable"
    for level in set(LEVELS) - set(library.levels):
        with pytest.raises(NativeError, match=level):
            Engine(library, 1, level)
