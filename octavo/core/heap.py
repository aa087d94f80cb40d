"""Memory of the process: what glibc's allocator is told, so that it goes back to the system (elsewhere
nothing), and when Python looks for garbage."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE = 1 << 20  # bytes
_MANY = 50_000  # objects


def keep_small() -> None:
    """For the life of this process: large buffers come from the system and go back to it when freed, and
    all threads share one arena.

    Left alone, glibc raises its threshold to the largest block it has seen, so that activations
    of every size tear holes into the heap and resident memory creeps up with the mix of requests;
    and each thread keeps what its largest request took.
    """
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_M_TRIM_THRESHOLD, _LARGE)
        library.mallopt(_M_ARENA_MAX, 1)


@contextlib.contextmanager
def swept_once() -> Iterator[None]:
    """Inside no garbage is looked for, then once if there are many new objects. For loading: they stay.

    They would be swept again and again as they become more, and a last time amid the first requests: all of
    torch and the model's objects, a tenth of a second.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        if gc.get_count()[0] > _MANY:  # a process's second model makes few, all modules are there
            gc.collect()


def keep_loaded() -> None:
    """What was loaded lives as long as the process: no full sweeps over it from here on."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Garbage, and pages that hold nothing any more. Takes milliseconds: for moments of rest.

    Otherwise they stay between what lives: a storm of large requests that were all refused would leave
    the process larger than it was.
    """
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
