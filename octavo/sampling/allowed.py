"""allowed_token_ids: everything else is excluded."""

from __future__ import annotations

import numpy as np

from octavo.core.messages import Admission
from octavo.sampling.stage import Index, Logits, Rows


class AllowedIds:
    def __init__(self, slots: int) -> None:
        self._ids: dict[int, Index] = {}

    def admit(self, a: Admission) -> bool:
        if a.sampling is None or a.sampling.allowed_token_ids is None:
            return False
        self._ids[a.slot] = np.array(a.sampling.allowed_token_ids, np.int64)
        return True

    def release(self, slot: int) -> None:
        del self._ids[slot]

    def apply(self, logits: Logits, rows: Rows, at: Index) -> None:
        for i in at:
            ids = self._ids[int(rows.slot[i])]
            kept = logits[i, ids]
            logits[i] = -np.inf
            logits[i, ids] = kept
