"""What to do where the device has no memory: for a launch, give back what torch keeps, try once more, then
in pieces; at start, say what would fit. Knows nothing of what is launched.

No second try runs inside an `except`: its traceback would keep the failed launch's tensors alive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from octavo.core.errors import UserError
from octavo.core.facts import Platform

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


@contextmanager
def needing(
    what: str, nbytes: int, platform: Platform, field: str = "gpu_memory_utilization"
) -> Iterator[None]:
    """Start-up that takes `nbytes` inside: UserError, with what was free, where they are not to be had."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{what} did not fit on {platform.name}: {_size(nbytes)} are needed, "
            f"{_size(platform.memory_free)} of {_size(platform.memory_total)} were free at the start",
            hint=_REMEDIES[field],
            field=field,
        ) from error


_REMEDIES = {
    "gpu_memory_utilization": "use a lower --gpu-memory-utilization, which leaves more beside the KV cache, "
    "or free memory that other programs hold",
    "model": "use a smaller model or --quantization fp8, which halves the weights, or free memory that other "
    "programs hold (--gpu-memory-utilization does not change what the weights take)",
}


def _size(nbytes: int) -> str:
    return f"{nbytes / (1 << 30):.2f} GiB ({nbytes} bytes)"
