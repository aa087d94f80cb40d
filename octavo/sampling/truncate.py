"""min_p, then top_k and top_p: the unlikely tail is excluded. Greedy rows do not come here."""

from __future__ import annotations

import numpy as np

from octavo.core.messages import Admission
from octavo.ops import sample
from octavo.sampling.stage import Index, Logits, Rows


class MinP:
    """Excludes tokens less likely than min_p times the likeliest."""

    def __init__(self, slots: int) -> None:
        self._gap = np.zeros(slots, np.float32)  # log of min_p

    def admit(self, a: Admission) -> bool:
        if a.sampling is None or a.sampling.temperature == 0 or a.sampling.min_p == 0:
            return False
        self._gap[a.slot] = np.log(a.sampling.min_p)
        return True

    def release(self, slot: int) -> None:
        pass

    def apply(self, logits: Logits, rows: Rows, at: Index) -> None:
        for i in at:
            row = logits[i]
            row[row < row.max() + self._gap[rows.slot[i]]] = -np.inf


class TopKP:
    """Keeps the top_k likeliest, of them the fewest that hold top_p of the probability."""

    def __init__(self, slots: int) -> None:
        self._k = np.zeros(slots, np.int64)
        self._p = np.ones(slots, np.float64)

    def admit(self, a: Admission) -> bool:
        s = a.sampling
        if s is None or s.temperature == 0 or (s.top_k == 0 and s.top_p >= 1):
            return False
        self._k[a.slot], self._p[a.slot] = s.top_k, s.top_p
        return True

    def release(self, slot: int) -> None:
        pass

    def apply(self, logits: Logits, rows: Rows, at: Index) -> None:
        for i in at:
            slot = rows.slot[i]
            sample.truncate(logits[i], int(self._k[slot]), float(self._p[slot]))
