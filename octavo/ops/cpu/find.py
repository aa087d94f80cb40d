"""The library of this machine, built on first use; or the reason why there is none."""

from __future__ import annotations

from functools import lru_cache

from octavo.config import env
from octavo.ops.cpu.build import BuildError, library
from octavo.ops.cpu.lib import Library, NativeError


@lru_cache(maxsize=1)
def find_library() -> Library | str:
    """The loaded library, or why there is none; asked once a process, since it may compile."""
    try:
        return Library(library(env.octavo_home() / "native"))
    except (BuildError, NativeError, OSError) as error:
        return str(error)
