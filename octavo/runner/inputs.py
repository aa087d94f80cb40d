"""Plan and slots to Forward: one pass of array arithmetic a step, no loop over rows.

Positions come from the slots, never from the plan: `start` there is an upper bound. A done
row leaves the step here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.core.facts import CacheGroup
from octavo.core.messages import WORK_COLUMNS, StepPlan
from octavo.nn.forward import Forward, GroupInputs, HostBounds
from octavo.runner.slots import Slots
from octavo.sampling.stage import Rows

Ints = NDArray[np.integer[Any]]


@dataclass(slots=True)
class Step:
    """One step on the device. Arrays [rows] follow the plan's order; `sampled` lists rows of them."""

    plan_id: int
    slot: Ints
    start: Ints  # true first position
    count: Ints  # true positions to compute; 0 for a done row
    drafts: Ints
    logits: Ints  # as planned
    first: Ints  # offset of the row's first token in the step
    width: int  # most tokens a row can bring
    sampled: Ints  # rows that sample
    rows: Rows  # one entry for each sampled position, row by row
    forward: Forward | None  # None: nothing to compute
    hidden: Tensor | None = None  # [tokens, hidden]
    scores: NDArray[np.float32] | None = None  # logits [len(rows), vocab]


class Inputs:
    """Builds steps; remembers the last work table, which a plan may continue."""

    def __init__(self, slots: Slots, groups: tuple[CacheGroup, ...], caches: dict[str, Tensor]) -> None:
        self._slots = slots
        self._groups = groups
        self._caches = caches
        self._table = np.zeros((0, WORK_COLUMNS), np.int64)

    def build(self, plan: StepPlan) -> Step:
        """Blocks, admissions and releases of the plan are already in the slots."""
        slots, table = self._slots, self._next_table(plan)
        slot, drafts = table[:, 0], table[:, 3]
        count = np.where(slots.done[slot], 0, table[:, 2])
        start = slots.computed[slot]
        known = slots.known[slot]
        samples = slots.samples[slot] & (count > 0) & (table[:, 4] > 0) & (start + count - drafts == known)
        live = count > 0
        assert (start <= table[:, 1])[live].all(), "the host's start is an upper bound"
        assert (start + count - drafts <= known)[live].all(), "only known tokens and drafts are computed"
        first = np.cumsum(count) - count
        sampled = np.flatnonzero(samples)
        per_row = drafts[sampled] + 1
        within = _within(per_row)
        owner = np.repeat(sampled, per_row)
        rows = Rows(slot[owner], known[owner] + within, known[owner], slots.tokens)
        logits_at = (first + count - 1 - drafts)[owner] + within
        return Step(
            plan_id=plan.id,
            slot=slot,
            start=start,
            count=count,
            drafts=drafts,
            logits=table[:, 4],
            first=first,
            width=1 + int(drafts.max(initial=0)),
            sampled=sampled,
            rows=rows,
            forward=self._forward(slot, start, count, logits_at) if count.any() else None,
        )

    def _next_table(self, plan: StepPlan) -> Ints:
        if plan.same:
            self._table[:, 1] += self._table[:, 2]
        else:
            self._table = np.frombuffer(plan.work, np.int32).reshape(-1, WORK_COLUMNS).astype(np.int64)
        return self._table

    def _forward(self, slot: Ints, start: Ints, count: Ints, logits_at: Ints) -> Forward:
        if not (live := count > 0).all():
            slot, start, count = slot[live], start[live], count[live]
        lengths = start + count
        if (tokens := int(count.sum())) == len(slot):  # one position each: rows are tokens
            owner, position = slot, start
        else:
            owner, position = np.repeat(slot, count), np.repeat(start, count) + _within(count)
        row_start = np.zeros(len(slot) + 1, np.int32)
        np.cumsum(count, out=row_start[1:])
        longest = int(lengths.max())
        device = self._device
        return Forward(
            tokens=_tensor(self._slots.tokens[owner, position].astype(np.int64), device),
            positions=_tensor(position, device),
            row_start=_tensor(row_start, device),
            logits_at=_tensor(logits_at, device),
            groups=tuple(
                self._group(g, slot, owner, position, lengths, longest) for g in range(len(self._groups))
            ),
            caches=self._caches,
            bounds=HostBounds(len(slot), tokens, int(count.max()), longest),
        )

    def _group(
        self, g: int, slot: Ints, owner: Ints, position: Ints, lengths: Ints, longest: int
    ) -> GroupInputs:
        page, table = self._groups[g].tokens_per_page, self._slots.tables[g]
        pages = -(-longest // page)
        places = table[owner, position // page].astype(np.int64) * page + position % page
        device = self._device
        return GroupInputs(
            lengths=_tensor(lengths.astype(np.int32), device),
            tables=_tensor(table[slot, :pages], device),
            slots=_tensor(places, device),
        )

    @property
    def _device(self) -> torch.device:
        return next(iter(self._caches.values())).device


def _within(count: Ints) -> Ints:
    """0 .. count[i] - 1 for each i, one after the other."""
    ends = np.cumsum(count)
    return np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - count, count)


def _tensor(array: Ints, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)
