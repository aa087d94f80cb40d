"""Page copies under way. Their pages stay held until a result acknowledges the copy, whatever
becomes of the rows: only copies are not bound to the order of plans."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

from octavo.core.messages import Copy
from octavo.scheduler.blocks import BlockPool


class Copies:
    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._ids = count()
        self._open: dict[int, Copy] = {}

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, kind: str, group: int, src: int, dst: int) -> Copy:
        """A copy for the next plan; both pages are held by their rows now, and by it."""
        copy = Copy(next(self._ids), kind, group, src, dst)
        self._pool.hold(src)
        self._pool.hold(dst)
        self._open[copy.id] = copy
        return copy

    def acknowledge(self, ids: Iterable[int]) -> None:
        for copy in ids:
            done = self._open.pop(copy)
            self._pool.give((done.src, done.dst))

    def pages(self) -> list[int]:
        """Pages held by copies, one entry a reference."""
        return [page for copy in self._open.values() for page in (copy.src, copy.dst)]
