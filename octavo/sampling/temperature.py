"""temperature: logits are divided by it. Greedy rows (0) do not come here."""

from __future__ import annotations

import numpy as np

from octavo.core.messages import Admission
from octavo.sampling.stage import Index, Logits, Rows


class Temperature:
    def __init__(self, slots: int) -> None:
        self._value = np.ones(slots, np.float32)

    def admit(self, a: Admission) -> bool:
        if a.sampling is None or a.sampling.temperature in (0.0, 1.0):
            return False
        self._value[a.slot] = a.sampling.temperature
        return True

    def release(self, slot: int) -> None:
        pass

    def apply(self, logits: Logits, rows: Rows, at: Index) -> None:
        for i in at:  # row by row: a selection of rows would be copied twice
            logits[i] /= self._value[rows.slot[i]]
