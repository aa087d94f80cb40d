"""Compiles the kernel library with the system's C++ compiler, once for these very sources.

Owns compiler flags and the cache folder's layout. Knows nothing of what the kernels do.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
COMPILERS = ("g++", "c++", "clang++")
_COMMON = (
    "-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-ffp-contract=off",
    "-pthread", "-Wall", "-Wextra", "-Wno-uninitialized", "-Wno-maybe-uninitialized", "-Wno-psabi",
    "-Wno-ignored-attributes",
)  # fmt: skip
_SHARED = ("engine", "pack", "pool", "program", "sampling", "slots")
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (
    *_AVX2,
    "-mavx512f",
    "-mavx512bw",
    "-mavx512dq",
    "-mavx512vl",
    "-mavx512vnni",
    "-mprefer-vector-width=512",
)
_BF16 = (*_AVX512, "-mavx512bf16")
_AMX = (*_BF16, "-mamx-tile", "-mamx-int8", "-mamx-bf16")
_ALL = ("rows", "attention", "attention_int8", "matmul_float", "matmul_codes", "sample", "level")


class Level(NamedTuple):
    """An instruction level: flags, the files compiled with them, and where the others come from."""

    name: str
    flags: tuple[str, ...]
    files: tuple[str, ...]
    rows: str
    pairs: str  # what gains from bfloat16 instructions


_PORTABLE = Level("portable", (), _ALL, "portable", "portable")
_X86 = (
    Level("avx2", _AVX2, _ALL, "avx2", "avx2"),
    Level("avx512", _AVX512, _ALL, "avx512", "avx512"),
    Level("avx512_bf16", _BF16, ("matmul_float", "attention_pairs", "level"), "avx512", "avx512_bf16"),
    Level("amx", _AMX, ("matmul_tiles", "level"), "avx512", "avx512_bf16"),
)
_NEON = ("-DOCT_USE_NEON",)
_ARM = (
    Level("neon", _NEON, _ALL, "neon", "neon"),
    Level("neon_dotprod", (*_NEON, "-march=armv8.2-a+dotprod"), _ALL, "neon_dotprod", "neon_dotprod"),
)
_MACHINES = {"x86_64": _X86, "amd64": _X86, "aarch64": _ARM, "arm64": _ARM}


class BuildError(Exception):
    """The library cannot be made here; the message says why."""


def library(
    cache: Path,
    *,
    extra: Sequence[str] = (),
    jobs: int | None = None,
    compilers: Sequence[str] = COMPILERS,
    machine: str | None = None,
) -> Path:
    """The compiled library, made in `cache` unless it is there. BuildError with a reason.

    `extra` are further compiler flags (sanitizers); they make another library. `compilers` and
    `machine` say for what, where that is not this machine.
    """
    compiler = find_compiler(compilers)
    machine = machine or platform.machine()
    file = f"octavo-cpu-{_key(compiler, machine, extra)}.so"
    for folder in (HERE, cache):  # beside the sources where the package brought it along
        if (folder / file).is_file():
            return folder / file
    target = cache / file
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=cache, prefix="build-") as work:
            made = _Build(compiler, Path(work), levels(machine), tuple(extra)).run(
                jobs or os.cpu_count() or 1
            )
            os.replace(made, target)  # whoever builds at the same time gets the same file
    except OSError as error:
        raise BuildError(f"cannot write {cache}: {error.strerror}") from error
    return target


def find_compiler(names: Sequence[str] = COMPILERS) -> str:
    """The first that is installed. BuildError where none is."""
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        raise BuildError(
            f"no C++ compiler was found (looked for {', '.join(names)}; on Debian: apt install g++)"
        )
    return found


def levels(machine: str) -> tuple[Level, ...]:
    """What is compiled for this kind of machine (as platform.machine() names it), the portable one first."""
    return (_PORTABLE, *_MACHINES.get(machine.lower(), ()))


def sources() -> Iterator[Path]:
    yield from sorted([*HERE.glob("*.cpp"), *HERE.glob("*.h")])


def _key(compiler: str, machine: str, extra: Sequence[str]) -> str:
    said = subprocess.run([compiler, "--version"], capture_output=True, timeout=60, check=False).stdout
    digest = hashlib.sha256(said.split(b"\n")[0])
    digest.update(repr((machine, platform.system(), _COMMON, levels(machine), extra)).encode())
    for path in sources():
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:20]


class _Build:
    def __init__(
        self, compiler: str, folder: Path, levels: tuple[Level, ...], extra: tuple[str, ...]
    ) -> None:
        self._compiler, self._folder, self._levels, self._extra = compiler, folder, levels, extra

    def run(self, jobs: int) -> Path:
        """Every object, then the link. A level the compiler does not know is left out."""
        made: list[Path] = []
        have: list[str] = []
        with ThreadPoolExecutor(jobs) as pool:
            # the longest first, so that the last core does not wait for it alone
            todo = [(level, file) for level in reversed(self._levels) for file in reversed(level.files)]
            running = [(level, pool.submit(self._level_object, level, file)) for level, file in todo]
            failed = {level.name: why for level, job in running if (why := job.exception()) is not None}
            broken = {
                level.name for level in self._levels if {level.name, level.rows, level.pairs} & failed.keys()
            }
            if "portable" in broken:
                raise failed["portable"]
            made = [job.result() for level, job in running if level.name not in broken]
            have = [level.name for level in self._levels if level.name not in broken]
            defines = [f"-DOCT_HAVE_{name.upper()}" for name in have]
            made += pool.map(lambda file: self._compile(file, defines, file), _SHARED)
        out = self._folder / "library.so"
        self._call([*self._extra, "-shared", "-pthread", *map(str, made), "-o", str(out)])
        return out

    def _level_object(self, level: Level, file: str) -> Path:
        names = [
            f"-DOCT_NS=oct_{level.name}", f"-DOCT_KERNELS=kernels_{level.name}",
            f"-DOCT_ROWS=oct_{level.rows}", f"-DOCT_PAIRS=oct_{level.pairs}",
        ]  # fmt: skip
        return self._compile(file, [*level.flags, *names], f"{level.name}-{file}")

    def _compile(self, file: str, flags: Sequence[str], name: str) -> Path:
        out = self._folder / f"{name}.o"
        self._call([*_COMMON, *flags, *self._extra, "-c", str(HERE / f"{file}.cpp"), "-o", str(out)])
        return out

    def _call(self, arguments: Sequence[str]) -> None:
        done = subprocess.run([self._compiler, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildError(f"the C++ compiler failed: {done.stderr.strip()[-2000:]}")
