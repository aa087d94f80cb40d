"""The one loop: up to `depth` plans in flight, results applied in order, masks sent in between.

Knows nothing of mailboxes, processes or clients; the executor and the source of masks are given.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Protocol

from octavo.core.messages import StepMasks, StepPlan, StepResult
from octavo.core.request import Delta
from octavo.executor.executor import Executor
from octavo.scheduler.flight import MaskedRow
from octavo.scheduler.scheduler import Scheduler


class MaskSource(Protocol):
    """The matchers of all requests with a grammar. Opened by whoever adds the request."""

    def accept(self, request: str, tokens: tuple[int, ...]) -> None:
        """The request's output grew."""

    def fill(self, request: str, path: tuple[int, ...]) -> bytes | None:
        """The bitmap of tokens allowed after its output and `path` (drafts, not accepted yet);
        None when the grammar forbids the path itself. A finished matcher allows its EOS tokens."""

    def only(self, token: int) -> bytes:
        """The bitmap of one token."""

    def close(self, request: str) -> None:
        """The request ended."""


class Loop:
    """depth 1: plan, execute, apply. depth 2: plan while a step runs. stages + 1: a pipeline.

    `parents` is the static draft tree: the parent of each draft by index, -1 for the sampled
    token; a chain where it is not given.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        depth: int,
        masks: MaskSource | None = None,
        parents: tuple[int, ...] = (),
    ) -> None:
        self._scheduler = scheduler
        self._executor = executor
        self._depth = depth
        self._masks = masks
        self._parents = parents
        self._flying: deque[tuple[StepPlan, Future[StepResult]]] = deque()
        self._proposals: dict[int, tuple[int, ...]] = {}  # newest drafts of a slot, grammar rows only
        self._masked = -1  # newest plan whose masks are sent

    @property
    def in_flight(self) -> int:
        return len(self._flying)

    def turn(self) -> list[Delta]:
        """Plans one step if there is room for it; waits for the oldest result when there is no
        more room or nothing to plan. Raises what the executor raised, a Fault."""
        if len(self._flying) < self._depth and (plan := self._scheduler.plan()) is not None:
            self._flying.append((plan, self._executor.submit(plan)))
            self._send_masks()
            if len(self._flying) < self._depth:
                return self._told(self._scheduler.news())
        return self._take() if self._flying else self._told(self._scheduler.news())

    def drain(self) -> list[Delta]:
        """Applies everything in flight without planning more."""
        deltas = self._told(self._scheduler.news())
        while self._flying:
            deltas += self._take()
        return deltas

    def _take(self) -> list[Delta]:
        result = self._flying[0][1].result()
        self._flying.popleft()
        self._proposals.update(result.drafts)
        deltas = self._told(self._scheduler.apply(result))
        self._send_masks()
        return deltas

    def _told(self, deltas: list[Delta]) -> list[Delta]:
        """The matchers follow what the front is told."""
        if self._masks is not None:
            for delta in deltas:
                if delta.tokens:
                    self._masks.accept(delta.id, delta.tokens)
                if delta.finish is not None:
                    self._masks.close(delta.id)
        return deltas

    def _send_masks(self) -> None:
        """A plan's masks follow from every result before it: only the oldest in flight can have them."""
        if self._masks is None or not self._flying:
            return
        plan = self._flying[0][0]
        if not plan.masked or plan.id <= self._masked:
            return
        self._masked = plan.id
        rows: list[tuple[int, int]] = []
        bits: list[bytes] = []
        for row in self._scheduler.masked(plan.id):
            for at, bitmap in enumerate(self._bitmaps(self._masks, row)):
                if bitmap is not None:
                    rows.append((row.slot, at))
                    bits.append(bitmap)
        self._executor.mask(StepMasks(plan_id=plan.id, rows=tuple(rows), bits=b"".join(bits)))

    def _bitmaps(self, masks: MaskSource, row: MaskedRow) -> Iterator[bytes | None]:
        """One for each position of the row, its drafts included."""
        if row.path:  # certain: each position has its token, the last one what the grammar allows
            yield from map(masks.only, row.path)
            yield masks.fill(row.request, row.path)
            return
        drafts = self._proposals.get(row.slot, ())
        for path in self._paths(drafts, row.drafts):
            yield masks.fill(row.request, path)

    def _paths(self, drafts: tuple[int, ...], used: int) -> list[tuple[int, ...]]:
        """The drafts on the way to each position of a row: the sampled token first, then every node."""
        paths: list[tuple[int, ...]] = [()]
        for node in range(used):
            parent = self._parents[node] if self._parents else node - 1
            paths.append((*paths[parent + 1], drafts[node]))
        return paths
