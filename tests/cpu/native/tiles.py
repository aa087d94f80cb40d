"""AMX where the CPU has none: flags that put emulated tiles (tiles.h) in place of the processor's.

The level's own sources are compiled unchanged, and what is not tiles runs as it would on such a CPU, so
the CPU must have the level below.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

from octavo.config import env
from octavo.ops.cpu import build
from octavo.platform.cpu import cpu_facts

_HEADER = Path(__file__).with_name("tiles.h")


def missing(machine: str | None = None) -> tuple[str, ...]:
    """Flags for the compiler; none for other processors, nor where this one has tiles.

    They change with the header, and with them the library's name.
    """
    if (machine or platform.machine()).lower() not in (
        "x86_64",
        "amd64",
    ) or "amx_tile" in cpu_facts().features:
        return ()
    return (f"-DOCT_EMULATED_TILES={crc32(_HEADER.read_bytes())}", "-include", str(_HEADER))


def library_here(flags: Sequence[str] = ()) -> Path:
    """Octavo's library for this machine with AMX in any case, and with further flags."""
    return build.library(env.octavo_home() / "native", extra=(*flags, *missing()))
