"""Words on their way to the device: a ring of pinned buffers, one copy for everything a step writes, or
several where the device has no memory for a larger landing.

Knows nothing of what the words mean. A buffer is written again only when the copy out of it is done.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_RING = 4  # more steps than are ever in flight
_WORDS = 1 << 16


class Uploads:
    """Collects (destination, words); `take` starts the copy of all of them. No segment is nearly as long as
    the first landing."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._pending: dict[int, NDArray[np.int32]] = {}
        self._ring = [_Buffer(self._cuda) for _ in range(_RING)]
        self._next = 0
        self._landing = torch.empty(_WORDS, dtype=torch.int32, device=device)

    def add(self, to: int, words: NDArray[np.int32]) -> None:
        """`words` go to position `to` of the arena, instead of words that were to go there. Segments that
        begin elsewhere must not overlap: they are written in any order."""
        self._pending[to] = words

    def take(self) -> Iterator[tuple[Tensor, int]]:
        """(staging on the device, segments) as ops.triton.step.scatter takes them; each is to be used before
        the next is asked for."""
        pending, self._pending = self._pending, {}
        if not pending:
            return
        if self._lands(sum(3 + len(words) for words in pending.values())):
            yield self._send(pending)
            return
        part: dict[int, NDArray[np.int32]] = {}
        total = 0
        for to, words in pending.items():
            total += 3 + len(words)
            if total > self._landing.shape[0]:
                yield self._send(part)
                part, total = {}, 3 + len(words)
            part[to] = words
        yield self._send(part)

    def _lands(self, total: int) -> bool:
        """Whether so many words find room at once; makes it where there is memory."""
        if self._landing.shape[0] >= total:
            return True
        try:
            self._landing = torch.empty(2 * total, dtype=torch.int32, device=self._device)
        except torch.OutOfMemoryError:
            return False
        return True

    def _send(self, pending: dict[int, NDArray[np.int32]]) -> tuple[Tensor, int]:
        head = 3 * len(pending)
        sizes = np.fromiter(map(len, pending.values()), np.int32, len(pending))
        total = head + int(sizes.sum())
        buffer = self._ring[self._next]
        self._next = (self._next + 1) % _RING
        host = buffer.open(total)
        table = host[:head].reshape(-1, 3)
        table[:, 0] = list(pending)
        table[:, 1] = head + np.cumsum(sizes) - sizes
        table[:, 2] = sizes
        np.concatenate(list(pending.values()), out=host[head:total])
        self._landing[:total].copy_(buffer.tensor[:total], non_blocking=True)
        buffer.close()
        return self._landing, len(pending)


class _Buffer:
    """Pinned words and the event that says when their copy is done."""

    def __init__(self, cuda: bool) -> None:
        self._cuda = cuda
        self._copied: torch.cuda.Event | None = None
        self._make(_WORDS)

    def open(self, words: int) -> NDArray[np.int32]:
        if self._copied is not None:
            self._copied.synchronize()
        if self.tensor.shape[0] < words:
            self._make(2 * words)
        return self._host

    def close(self) -> None:
        if self._cuda:
            self._copied = self._copied or torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def _make(self, words: int) -> None:
        self.tensor = torch.empty(words, dtype=torch.int32, pin_memory=self._cuda)
        self._host = self.tensor.numpy()
