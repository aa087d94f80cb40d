"""min_tokens: what would end the request is excluded until enough tokens are out, unless nothing else
is left (a grammar that has come to its end)."""

from __future__ import annotations

import numpy as np

from octavo.core.messages import Admission
from octavo.sampling.stage import Index, Logits, Rows


class MinTokens:
    def __init__(self, slots: int) -> None:
        self._until = np.zeros(slots, np.int64)  # the first position where the end is allowed
        self._ends: dict[int, Index] = {}

    def admit(self, a: Admission) -> bool:
        s = a.sampling
        if s is None or s.min_tokens == 0 or not (s.eos or s.stop_token_ids):
            return False
        self._until[a.slot] = a.prompt + s.min_tokens
        self._ends[a.slot] = np.array(s.eos + s.stop_token_ids, np.int64)
        return True

    def release(self, slot: int) -> None:
        del self._ends[slot]

    def apply(self, logits: Logits, rows: Rows, at: Index) -> None:
        for i in at[rows.position[at] < self._until[rows.slot[at]]]:
            ends = self._ends[int(rows.slot[i])]
            before = logits[i, ends]
            logits[i, ends] = -np.inf
            if logits[i].max() == -np.inf:
                logits[i, ends] = before
