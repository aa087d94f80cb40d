"""A step from its first grant to its result. Packs plans; decides nothing."""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np

from octavo.core.messages import WORK_COLUMNS, Admission, Copy, StepPlan
from octavo.scheduler.state import RequestState


class MaskedRow(NamedTuple):
    """A row of a masked plan that samples under a grammar. `path` are its drafts where the host
    proposed them: tokens that are certain."""

    request: str
    slot: int
    drafts: int
    path: tuple[int, ...] = ()


class Flight:
    """One plan: first being filled, then in flight until its result is applied."""

    __slots__ = (
        "admit",
        "awaited",
        "blocks",
        "budget",
        "copies",
        "ends",
        "feed",
        "id",
        "jumped",
        "masked",
        "room",
        "rows",
        "spare",
        "starved",
        "table",
        "upper",
    )

    def __init__(self, plan_id: int, budget: int, room: int) -> None:
        self.id = plan_id
        self.budget = budget  # positions left
        self.room = room  # rows left
        self.awaited = False  # rows were running already
        self.spare = 0  # samples left beyond one for each row
        self.jumped = 0  # tokens that were certain and skip a step of their own
        self.rows: list[RequestState] = []
        self.upper: list[int] = []  # tokens each row may bring; 0: it does not sample
        self.ends: list[int] = []  # positions each row has after the step
        self.table = array("i")  # int32 [rows, 5], as in StepPlan.work
        self.admit: list[Admission] = []
        self.blocks: list[tuple[int, int, int, tuple[int, ...]]] = []
        self.copies: list[Copy] = []
        self.feed: list[tuple[int, int, tuple[int, ...]]] = []
        self.masked: list[MaskedRow] = []
        self.starved = False  # a row found no pages: admit nobody, preempted rows go first

    def admit_row(self, r: RequestState, fork: int | None) -> None:
        """The row enters with this plan; `fork` is the slot whose prompt it shares."""
        self.admit.append(
            Admission(
                slot=r.slot,
                tokens=tuple(r.tokens),
                prompt=r.prompt,
                start=r.computed,
                seed=r.request.seed,
                sampling=r.sampling,
                pooling=r.request.pooling,
                grammar=r.request.grammar is not None,
                spans=r.request.media,
                fork=fork,
            )
        )

    def add(
        self, r: RequestState, todo: int, drafts: int, logits: int, upper: int, path: tuple[int, ...] = ()
    ) -> int:
        """Grants a row `todo` positions, which may bring `upper` tokens; where it stands after them.
        `path`: the drafts, where the device does not have them."""
        start = r.computed
        self.table.extend((r.slot, start, todo, drafts, logits))
        self.budget -= todo
        self.room -= 1
        self.rows.append(r)
        self.upper.append(upper)
        r.computed = end = start + todo
        self.ends.append(end)
        r.granted = self.id
        r.flights += 1
        if path:
            self.feed.append((r.slot, end - drafts, path))
            self.jumped += drafts
        if upper:
            r.pending += upper
            r.drafting = True
            if r.request.grammar is not None:
                self.masked.append(MaskedRow(r.id, r.slot, drafts, path))
        return end

    def seal(self, release: tuple[int, ...], last: bytes) -> StepPlan:
        """The finished plan; `last` is the work table of the plan before."""
        work = self.table.tobytes()
        same = work != b"" and work == _advanced(last)
        return StepPlan(
            id=self.id,
            release=release,
            admit=tuple(self.admit),
            feed=tuple(self.feed),
            blocks=tuple(self.blocks),
            copies=tuple(self.copies),
            work=b"" if same else work,
            same=same,
            masked=bool(self.masked),
        )


def _advanced(table: bytes) -> bytes:
    """A work table with every start moved past its count: what a steady batch of decodes does next."""
    rows = np.frombuffer(table, np.int32).reshape(-1, WORK_COLUMNS).copy()
    rows[:, 1] += rows[:, 2]
    advanced: bytes = rows.tobytes()
    return advanced
