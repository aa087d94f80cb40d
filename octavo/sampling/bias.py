"""logit_bias: a constant is added to chosen tokens."""

from __future__ import annotations

import numpy as np

from octavo.core.messages import Admission
from octavo.sampling.stage import Index, Logits, Rows


class LogitBias:
    def __init__(self, slots: int) -> None:
        self._bias: dict[int, tuple[Index, Logits]] = {}

    def admit(self, a: Admission) -> bool:
        if a.sampling is None or not a.sampling.logit_bias:
            return False
        bias = dict(a.sampling.logit_bias)
        ids = np.fromiter(bias, np.int64, len(bias))
        self._bias[a.slot] = ids, np.fromiter(bias.values(), np.float32, len(bias))
        return True

    def release(self, slot: int) -> None:
        del self._bias[slot]

    def apply(self, logits: Logits, rows: Rows, at: Index) -> None:
        for i in at:
            ids, values = self._bias[int(rows.slot[i])]
            logits[i, ids] += values
