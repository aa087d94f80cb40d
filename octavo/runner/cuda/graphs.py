"""CUDA graphs by key: launched kernel by kernel the first time, captured behind that, replayed from then on;
beyond a number the one that was not used for longest goes.

Knows nothing of what it captures, only that the same key means the same launches on the same memory.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import cache

import torch


class Graphs:
    """One memory pool for all graphs: they run one after the other, and what must outlive a graph has
    memory of its own. At most `most` are kept."""

    def __init__(self, device: torch.device, *, most: int, eager: bool) -> None:
        self.off = eager or device.type != "cuda"
        self._most = most
        self._graphs: OrderedDict[Hashable, torch.cuda.CUDAGraph] = OrderedDict()  # newest use last
        if not self.off:
            self._pool = torch.cuda.graph_pool_handle()
            self._stream = _aside(torch.cuda.current_device(), threading.get_ident())

    @property
    def count(self) -> int:
        return len(self._graphs)

    def run(self, key: Hashable, launch: Callable[[], object]) -> None:
        """Launches once, one way or the other."""
        if self.off:
            launch()
            return
        if (graph := self._graphs.get(key)) is not None:
            self._graphs.move_to_end(key)
            graph.replay()
            return
        launch()  # whatever is compiled or set up on first use, is now
        self._capture(key, launch)  # for the next one, while this one runs

    def _capture(self, key: Hashable, launch: Callable[[], object]) -> None:
        """Nothing where there is no memory for another graph: such steps are launched kernel by kernel. One
        that goes may still be running: CUDA frees it when it is through."""
        while len(self._graphs) >= self._most:
            self._graphs.popitem(last=False)
        with contextlib.suppress(torch.OutOfMemoryError):
            self._graphs[key] = self._record(launch)

    def _record(self, launch: Callable[[], object]) -> torch.cuda.CUDAGraph:
        """Records without running. torch.cuda.graph() would sweep Python's garbage each time: the best
        part of a second for all buckets."""
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="relaxed")
            try:
                launch()
            except BaseException:
                with contextlib.suppress(Exception):  # what broke the launch may have broken the graph, too
                    graph.capture_end()
                raise
            graph.capture_end()
        current.wait_stream(self._stream)
        return graph

    def clear(self) -> None:
        self._graphs.clear()


@cache
def _aside(device: int, thread: int) -> torch.cuda.Stream:
    """Where a thread captures. Every engine it starts does so on the same stream: cuBLAS keeps scratch memory
    (32 MiB on Hopper) for each it has ever seen."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def bucket(rows: int) -> int:
    """The size a step of `rows` decoding rows is padded to: powers of two, then steps of 8, of 32."""
    if rows <= 8:
        return 1 << (rows - 1).bit_length()
    step = 8 if rows <= 256 else 32
    return -(-rows // step) * step


def kinds(most: int) -> list[int]:
    """A bucket for every set of kernels: they change with powers of two and multiples of 16 at most."""
    return list({(b.bit_length(), (b - 1).bit_length(), b % 16): b for b in buckets(most)}.values())


def most_graphs(rows: int) -> int:
    """How many the memory plan pays for: F and S of every bucket, and as many again for steps with prompts,
    with a common prefix and with other draws, of which there are more kinds than anybody asks for at once."""
    return 4 * len(buckets(rows))


def buckets(most: int) -> list[int]:
    """All of them up to the one that holds `most` rows, largest first."""
    return sorted({min(bucket(rows), most) for rows in range(1, most + 1)}, reverse=True)
