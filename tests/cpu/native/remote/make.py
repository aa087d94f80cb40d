"""`python -m tests.cpu.native.remote.make FOLDER`: compiles library and server, prints how to start them.

--compiler and --machine for another processor, --flags for sanitizers, --before for the command that
starts programs there (an emulator). Names the levels found there on standard error; --best says which
must be the best of them.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from octavo.ops.cpu.build import library
from tests.cpu.native import tiles
from tests.cpu.native.remote.calls import RemoteLibrary, compile_server


def make(
    folder: Path, compiler: str, machine: str, flags: Sequence[str] = (), before: Sequence[str] = ()
) -> list[str]:
    """The command that serves a library made for `machine`, behind `before`."""
    extra = (*flags, *tiles.missing(machine))
    made = library(folder, extra=extra, compilers=(compiler,), machine=machine)
    return [*before, str(compile_server(compiler, folder, flags)), str(made)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--machine", default=platform.machine())
    parser.add_argument("--flags", default="")
    parser.add_argument("--before", default="")
    parser.add_argument("--best", default="")
    asked = parser.parse_args()
    command = make(
        asked.folder, asked.compiler, asked.machine, shlex.split(asked.flags), shlex.split(asked.before)
    )
    served = RemoteLibrary(command)
    print(f"{asked.machine}: levels {', '.join(served.levels)}, best {served.level}", file=sys.stderr)
    served.close()
    if asked.best not in ("", served.level):
        parser.error(f"the best level is {served.level}, {asked.best} is wanted")
    print(shlex.join(command))


if __name__ == "__main__":
    main()
