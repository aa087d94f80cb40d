"""A plan's rows as the host sees them: order, padding, bounds. Knows no device.

Rows with one token come first, whatever the plan's order: attention treats them apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.core.messages import WORK_COLUMNS, StepPlan
from octavo.nn.forward import HostBounds
from octavo.runner.cuda.graphs import bucket

Ints = NDArray[np.integer[Any]]
# token buckets of steps that are not all decodes; the budget is one, too
_MIXED = (32, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384)


class Sizes(NamedTuple):
    """What steps are padded to. `spare` tokens of padding cost less than launching kernel by kernel."""

    rows: int
    budget: int
    spare: int


@dataclass(frozen=True, slots=True)
class Rows:
    """One step. Arrays [rows] follow `order`, which maps a place in the step to one in the plan."""

    plan_id: int
    slot: Ints
    count: Ints
    start: Ints  # upper bounds
    logits: Ints
    order: Ints | None  # None: as in the plan
    bounds: HostBounds
    padded: tuple[int, int]  # tokens, rows
    graph: bool  # small enough to be captured
    first: int = 0  # where its rows begin in the step it is a piece of
    skip: int = 0  # tokens of its only row that an earlier piece has computed

    @property
    def decode(self) -> bool:
        return self.bounds.max_query == 1

    def next(self, plan_id: int) -> Rows:
        """The step after this one, when every row goes on by its count."""
        bounds = self.bounds._replace(
            max_context=self.bounds.max_context + self.bounds.max_query, fresh=False, later=True
        )
        return replace(self, plan_id=plan_id, start=self.start + self.count, bounds=bounds)

    def table(self) -> NDArray[np.int32]:
        """[4, padded rows] for State.set_plan."""
        out = np.zeros((4, self.padded[1]), np.int32)
        for row, values in enumerate((self.slot, self.count, self.logits)):
            out[row, : len(values)] = values
        out[3, : len(self.slot)] = self.skip
        return out

    def as_planned(self) -> Rows:
        """The same rows in the plan's order: each reads only what rows before it have written."""
        slot, count, start, logits = map(self.in_plan_order, (self.slot, self.count, self.start, self.logits))
        return replace(self, slot=slot, count=count, start=start, logits=logits, order=None)

    def runs(self) -> list[Rows]:
        """Of rows in the plan's order: steps that do one after the other what this one does, and have rows
        of one token first."""
        single = self.count == 1
        cuts = [0, *(np.flatnonzero(single[1:] & ~single[:-1]) + 1), len(self.slot)]
        return [self._piece(slice(a, b), self.first + a) for a, b in pairwise(map(int, cuts))]

    def halves(self) -> tuple[Rows, Rows] | None:
        """Two steps that together do what this one does; None for a single token."""
        rows = len(self.slot)
        if rows == 1 and self.count[0] == 1:
            return None
        if rows > 1:
            cut = rows // 2
            return self._piece(slice(0, cut), self.first), self._piece(slice(cut, rows), self.first + cut)
        done = int(self.count[0]) // 2
        head = replace(self, count=self.count - (self.count - done), logits=self.logits * 0)
        tail = replace(self, count=self.count - done, start=self.start + done, skip=self.skip + done)
        return head.exact(), tail.exact()

    def _piece(self, rows: slice, first: int) -> Rows:
        slot, count, start = self.slot[rows], self.count[rows], self.start[rows]
        return replace(
            self, slot=slot, count=count, start=start, logits=self.logits[rows], first=first
        ).exact()

    def exact(self) -> Rows:
        """With bounds and padding of its own rows, not those of a graph."""
        bounds = _bounds(self.start, self.count)
        return replace(self, bounds=bounds, padded=(max(bounds.tokens, bounds.rows), bounds.rows))

    def eager(self) -> Rows:
        """The same, launched kernel by kernel: no padding but the rows for which S is captured."""
        exact, rows = self.exact(), self.padded[1]
        return replace(exact, padded=(max(exact.padded[0], rows), rows), graph=False)

    def in_plan_order(self, values: Ints) -> Ints:
        """[rows, ...] of the step, reordered as the plan has them."""
        if self.order is None:
            return values
        out = np.empty_like(values)
        out[self.order] = values
        return out


def read_rows(plan: StepPlan, sizes: Sizes) -> Rows:
    """From a plan that brings a work table."""
    table = np.frombuffer(plan.work, np.int32).reshape(-1, WORK_COLUMNS)
    assert not table[:, 3].any(), "this device verifies no drafts"
    order = None
    single = table[:, 2] == 1
    if not single.all() and (single[1:] > single[:-1]).any():
        order = np.argsort(~single, kind="stable")
        table = table[order]
    slot, start, count, _, logits = table.T
    bounds = _bounds(start, count)
    padded, graph = _pad(bounds, sizes)
    return Rows(plan.id, slot, count, start, logits, order, bounds, padded, graph)


def _bounds(start: Ints, count: Ints) -> HostBounds:
    longest = int(count.max(initial=0))
    began = start[count > 1] > 0
    context = int((start + count).max(initial=0))
    return HostBounds(
        len(count), int(count.sum()), longest, context, fresh=not began.all(), later=bool(began.any())
    )


def _pad(b: HostBounds, sizes: Sizes) -> tuple[tuple[int, int], bool]:
    """(tokens, rows) of the step as it is launched, and whether as a graph."""
    if b.max_query <= 1:
        wide = min(bucket(b.rows), sizes.rows)
        return (wide, wide), b.rows > 0
    wide = min(1 << (b.rows - 1).bit_length(), sizes.rows)
    size = next((size for size in _MIXED if size >= b.tokens), sizes.budget)
    size = max(min(size, sizes.budget), wide)
    if 0 <= size - b.tokens <= sizes.spare:
        return (size, wide), True
    return (max(b.tokens, b.rows), b.rows), False


def common_pages(mirror: NDArray[np.int32], rows: Rows, page: int, worth: int) -> int:
    """Leading pages that every row of a decode step has in common and has computed; 0 where they are
    too few to be worth `worth` tokens, or the rows too few to share."""
    if not rows.decode or len(rows.slot) < 2:
        return 0
    full = int(rows.start.min()) // page
    if full * page < worth or (mirror[rows.slot, 0] != mirror[rows.slot[0], 0]).any():
        return 0
    tables = mirror[rows.slot, :full]
    same = (tables == tables[0]).all(0)
    pages = full if same.all() else int(same.argmin())
    return pages if pages * page >= worth else 0
