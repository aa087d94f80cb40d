"""Inputs and commit of a step by the native library: two calls, into memory that stays.

The same as inputs.py and commit.py, which are its reference. What `build` and `commit` return is
valid until the next step.
"""

from __future__ import annotations

from ctypes import byref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.core.facts import CacheGroup
from octavo.core.messages import WORK_COLUMNS, StepPlan
from octavo.nn.forward import Forward, GroupInputs, HostBounds
from octavo.ops.cpu import slots as native
from octavo.ops.cpu.lib import Library
from octavo.ops.cpu.sample import address
from octavo.runner.commit import Outcome
from octavo.runner.inputs import Step
from octavo.runner.slots import Slots
from octavo.sampling.stage import Index, Rows

_BY_ROW = ("slot", "start", "count", "drafts", "logits", "first", "sampled")
_BY_TOKEN = ("row_slot", "row_position", "row_known", "logits_at", "ids", "positions")


class NativeInputs:
    """Builds steps and settles them; remembers the last work table, which a plan may continue."""

    def __init__(
        self, slots: Slots, groups: tuple[CacheGroup, ...], caches: dict[str, Tensor], library: Library
    ) -> None:
        self._slots, self._groups, self._caches, self._library = slots, groups, caches, library
        rows = len(slots.known)
        self._table = np.zeros((0, WORK_COLUMNS), np.int64)
        self._by_row = {name: np.zeros(rows, np.int64) for name in _BY_ROW}
        self._row_start, self._lengths = np.zeros(rows + 1, np.int32), np.zeros(rows, np.int32)
        self._pages = [np.zeros_like(table) for table in slots.tables]
        self._counts, self._finished = np.zeros(rows, np.int32), np.zeros(rows, np.uint8)
        self._begun = native.BegunStruct(
            row_start=address(self._row_start),
            lengths=address(self._lengths),
            **{name: address(array) for name, array in self._by_row.items()},
        )
        self._ended = native.EndedStruct(counts=address(self._counts), finished=address(self._finished))
        self._last: tuple[tuple[int, ...], Forward] | None = None  # sizes, views
        self._groups_struct = (native.PagesStruct * max(1, len(groups)))()
        self._view = self._slots_struct()
        self._make_room(rows)

    def build(self, plan: StepPlan) -> Step:
        """Blocks, admissions and releases of the plan are already in the slots."""
        if plan.same:
            self._table[:, 1] += self._table[:, 2]
        else:
            self._table = np.frombuffer(plan.work, np.int32).reshape(-1, WORK_COLUMNS).astype(np.int64)
            self._make_room(int(self._table[:, 2].sum()))
        if plan.admit:
            self._look_at_ends()
        rows, b = len(self._table), self._begun
        assert rows <= len(self._counts), "a slot has one row"
        native.begin(self._library, byref(self._view), self._table, byref(b))
        row, scored = self._by_row, slice(b.scored)
        at, rows_of = self._by_token, slice(rows)
        return Step(
            plan_id=plan.id,
            slot=row["slot"][rows_of],
            start=row["start"][rows_of],
            count=row["count"][rows_of],
            drafts=row["drafts"][rows_of],
            logits=row["logits"][rows_of],
            first=row["first"][rows_of],
            width=b.width,
            sampled=row["sampled"][: b.samples],
            rows=Rows(
                at["row_slot"][scored],
                at["row_position"][scored],
                at["row_known"][scored],
                self._slots.tokens,
            ),
            forward=self._forward() if b.tokens else None,
        )

    def commit(self, step: Step, samples: Index) -> Outcome:
        """Writes accepted tokens and lengths; `samples` has one token for each of step.rows."""
        rows, width = len(step.slot), step.width
        final: NDArray[np.int64] = np.ascontiguousarray(samples, np.int64)
        assert len(final) == self._begun.scored, "one sample for each row"
        tokens: NDArray[np.int32] = np.empty((rows, width), np.int32)
        self._ended.tokens = address(tokens)
        native.end(self._library, byref(self._view), byref(self._begun), rows, final, byref(self._ended))
        return Outcome(tokens, self._counts[:rows], self._finished[:rows])

    def _forward(self) -> Forward:
        """The last one again where its views have the same sizes, as in most steps that decode."""
        b = self._begun
        pages = [-(-b.longest // group.tokens_per_page) for group in self._groups]
        sizes = (b.tokens, b.live, b.scored, *pages)
        if self._last is None or self._last[0] != sizes:
            self._last = sizes, self._views(pages)
        self._last[1].bounds = HostBounds(b.live, b.tokens, b.widest, b.longest)
        return self._last[1]

    def _views(self, pages: list[int]) -> Forward:
        b, at = self._begun, self._tensors
        return Forward(
            tokens=at["ids"][: b.tokens],
            positions=at["positions"][: b.tokens],
            row_start=self._row_tensors[0][: b.live + 1],
            logits_at=at["logits_at"][: b.scored],
            groups=tuple(
                GroupInputs(self._row_tensors[1][: b.live], tables[: b.live, :reached], places[: b.tokens])
                for tables, places, reached in zip(
                    self._page_tensors, self._place_tensors, pages, strict=True
                )
            ),
            caches=self._caches,
            bounds=HostBounds(b.live, b.tokens, b.widest, b.longest),
        )

    # ---- memory that the library writes -------------------------------------------------------

    def _slots_struct(self) -> native.SlotsStruct:
        slots = self._slots
        rows, width = slots.tokens.shape
        view = native.SlotsStruct(slots=rows, width=width, groups=len(self._groups))
        for name in ("tokens", "known", "computed", "samples", "done", "earliest", "last"):
            setattr(view, name, address(getattr(slots, name)))
        view.pages = self._groups_struct
        for struct, group, table, seen in zip(
            self._groups_struct, self._groups, slots.tables, self._pages, strict=False
        ):
            struct.page, struct.stride = group.tokens_per_page, table.shape[1]
            struct.table, struct.rows = address(table), address(seen)
        self._row_tensors = torch.from_numpy(self._row_start), torch.from_numpy(self._lengths)
        self._page_tensors = [torch.from_numpy(seen) for seen in self._pages]
        self._view = view
        self._look_at_ends()
        return view

    def _look_at_ends(self) -> None:
        """An admission with many of them makes their tables anew."""
        view, ends = self._view, self._slots.ends
        view.eos, view.eos_width = address(ends["eos"]), ends["eos"].shape[1]
        view.stop, view.stop_width = address(ends["stop"]), ends["stop"].shape[1]

    def _make_room(self, tokens: int) -> None:
        if tokens <= self._begun.room:
            return
        b = self._begun
        self._by_token = {name: np.zeros(tokens, np.int64) for name in _BY_TOKEN}
        self._places = [np.zeros(tokens, np.int64) for _ in self._groups]
        for name, array in self._by_token.items():
            setattr(b, name, address(array))
        for struct, places in zip(self._groups_struct, self._places, strict=False):
            struct.places = address(places)
        self._tensors = {name: torch.from_numpy(array) for name, array in self._by_token.items()}
        self._place_tensors = [torch.from_numpy(places) for places in self._places]
        self._last = None
        b.room = tokens
