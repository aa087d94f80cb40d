"""What to do where the device has no memory for a launch: give back what torch keeps, try once more, then
in pieces. Knows nothing of what is launched.

Nothing here runs inside an `except`: its traceback would keep the failed launch's tensors alive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")


def found_memory(launch: Callable[[], object]) -> bool:
    """Launches, a second time if there was no memory; False where there was none again. What is launched
    must bear a second try."""
    for _ in range(2):
        try:
            launch()
            return True
        except torch.OutOfMemoryError:
            pass
        torch.cuda.empty_cache()
    return False


def in_pieces(first: int, end: int, launch: Callable[[int, int], T]) -> Iterator[tuple[int, int, T | None]]:
    """(first, end, launch(first, end)) of as few parts of a range as there is memory for, in order; None
    in place of the result where one alone found none."""
    made: list[T] = []
    if found_memory(lambda: made.append(launch(first, end))):
        yield first, end, made[0]
    elif end - first <= 1:
        yield first, end, None
    else:
        middle = (first + end) // 2
        yield from in_pieces(first, middle, launch)
        yield from in_pieces(middle, end, launch)
