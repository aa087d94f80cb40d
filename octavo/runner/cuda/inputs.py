"""Where a step's inputs and outputs live on the device: allocated once, used from their beginning.

Fixed addresses are what lets a captured graph run any step of its size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from octavo.core.facts import CacheGroup
from octavo.nn.forward import Forward, GroupInputs, HostBounds
from octavo.ops.triton.step import lay_out_rows, lay_out_tokens
from octavo.runner.cuda.state import State


class Inputs:
    """Buffers for steps of up to `budget` tokens (at least a token a slot)."""

    def __init__(
        self,
        state: State,
        groups: Sequence[CacheGroup],
        caches: dict[str, Tensor],
        budget: int,
        device: torch.device,
    ) -> None:
        self._state, self._groups, self.caches = state, tuple(groups), caches
        rows, tokens = state.slots, max(budget, state.slots)

        def ints(count: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(count, dtype=dtype, device=device)

        self.row_start, self.owners, self.start, self.live, self.sampled = (
            ints(rows + 1), ints(rows), ints(rows), ints(rows), ints(rows)
        )  # fmt: skip
        self.logits_at, self.place = ints(rows, torch.int64), ints(rows, torch.int64)
        self.tokens, self.positions = ints(tokens, torch.int64), ints(tokens, torch.int64)
        self.slots = [ints(tokens, torch.int64) for _ in groups]
        self.lengths = [ints(rows) for _ in groups]

    def lay_out(self, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Launches what derives the plan's rows from the slots: row_start [rows + 1], owners, start, live."""
        row_start, owners = self.row_start[: rows + 1], self.owners[:rows]
        start, live = self.start[:rows], self.live[:rows]
        out = (row_start, owners, start, live, self.logits_at, self.sampled, self.place)
        lay_out_rows(self._state.plan, self._state.columns, out, rows)
        return row_start, owners, start, live

    def build(self, bounds: HostBounds, whole: bool) -> Forward:
        """Launches what derives the step's inputs from the slots; padded to bounds.tokens and bounds.rows.
        Not `whole`: of a row's tokens only what its logits need."""
        state, tokens, rows = self._state, bounds.tokens, bounds.rows
        row_start, owners, start, live = self.lay_out(rows)
        ids, positions = self.tokens[:tokens], self.positions[:tokens]
        groups = []
        for g, group in enumerate(self._groups):
            slots, lengths = self.slots[g][:tokens], self.lengths[g][:rows]
            lay_out_tokens(
                state.tokens,
                state.tables[g],
                group.tokens_per_page,
                (row_start, owners, start, live),
                (ids, positions, slots, lengths),
            )
            groups.append(GroupInputs(lengths, state.tables[g], slots))
        logits_at = self.logits_at[:rows]
        return Forward(
            tokens=ids,
            positions=positions,
            row_start=row_start,
            logits_at=logits_at,
            groups=tuple(groups),
            caches=self.caches,
            bounds=bounds,
            owners=owners,
            shared=state.shared,
            last=None if whole or bounds.max_query == 1 else logits_at,
        )
