"""Histograms that are cheap to feed: one bisect and two additions a value. No locks: one thread."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

# upper edges, in seconds or tokens
FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
PER_TOKEN = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
REQUEST = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
    120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
CHILDREN = (1.0, 2.0, 5.0, 10.0, 20.0)


def decades(limit: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, 50 ... up to and with the first edge that reaches `limit`."""
    edges: list[float] = []
    scale = 1
    while True:
        for digit in (1, 2, 5):
            edges.append(float(digit * scale))
            if edges[-1] >= limit:
                return tuple(edges)
        scale *= 10


class Histogram:
    """Counts values by upper edge."""

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges = tuple(edges)
        self._counts = [0] * (len(self._edges) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._edges, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by edge, as Prometheus wants them."""
        names = [str(edge) for edge in self._edges] + ["+Inf"]
        return list(zip(names, map(float, accumulate(self._counts)), strict=True))
