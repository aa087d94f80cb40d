"""The order of waiting requests. Knows nothing of blocks or budgets."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from octavo.scheduler.state import RequestState


class WaitingQueue:
    """A heap by RequestState.order. Every operation is O(log n) at most; none scans the queue.

    A discarded request stays in the heap as a dead entry until it surfaces or until dead
    entries outnumber the living.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, float, int], RequestState]] = []
        self._live = 0

    def __len__(self) -> int:
        return self._live

    def push(self, r: RequestState) -> None:
        r.queued = True
        self._live += 1
        heappush(self._heap, (r.order, r))

    def peek(self) -> RequestState | None:
        """The first in line, or None."""
        heap = self._heap
        while heap and not heap[0][1].queued:
            heappop(heap)
        return heap[0][1] if heap else None

    def pop(self) -> RequestState:
        """Takes the first in line; there is one."""
        r = self.peek()
        assert r is not None
        heappop(self._heap)
        r.queued = False
        self._live -= 1
        return r

    def discard(self, r: RequestState) -> None:
        """Takes out a request that will not come back."""
        if not r.queued:
            return
        r.queued = False
        self._live -= 1
        if len(self._heap) > 2 * self._live + 64:
            self._heap = [entry for entry in self._heap if entry[1].queued]
            heapify(self._heap)
