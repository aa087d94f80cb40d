"""Keeps the launchers of Triton's kernels apart where threads load them side by side.

Up to Triton 3.6 every kernel has a launcher of its own in C, and all of these extension modules have one
name and no state. Python writes such a module, when its file is loaded again, into whichever module has its
name by then: what another thread has just loaded, and is about to take its launcher from, becomes another's.
"""

from __future__ import annotations

import threading
from functools import cache
from types import ModuleType

from triton.runtime import build


@cache
def keep_apart() -> None:
    """From now on Triton's extension modules are loaded one at a time, and what a caller gets is a copy."""
    load, turn = build._load_module_from_path, threading.Lock()

    def loaded(name: str, path: str) -> ModuleType:
        own = ModuleType(name)
        with turn:
            vars(own).update(vars(load(name, path)))
        return own

    build._load_module_from_path = loaded
