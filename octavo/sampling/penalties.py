"""Repetition, frequency and presence penalties.

Repetition looks at prompt and output, the other two at the output only. A row's state is the
sparse set of tokens it has seen; it catches up from the history whenever it is looked at, so
nothing has to be told of accepted tokens and a re-admitted request starts where it was.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from octavo.core.messages import Admission
from octavo.core.request import Sampling
from octavo.sampling.stage import Index, Logits, Rows


class Penalties:
    def __init__(self, slots: int) -> None:
        self._seen: dict[int, _Seen] = {}

    def admit(self, a: Admission) -> bool:
        s = a.sampling
        if s is None or (s.repetition_penalty, s.frequency_penalty, s.presence_penalty) == (1.0, 0.0, 0.0):
            return False
        seen = _Seen(s, a.prompt)
        if s.repetition_penalty != 1.0:
            seen.add(a.tokens[: a.prompt], 0)
        seen.add(a.tokens[a.prompt :], 1)
        seen.upto = len(a.tokens)
        self._seen[a.slot] = seen
        return True

    def release(self, slot: int) -> None:
        del self._seen[slot]

    def apply(self, logits: Logits, rows: Rows, at: Index) -> None:
        for i in at:
            slot, known, position = int(rows.slot[i]), int(rows.known[i]), int(rows.position[i])
            seen = self._seen[slot]
            if known > seen.upto:
                seen.add(map(int, rows.history[slot, seen.upto : known]), 1)
                seen.upto = known
            if position > known:  # drafts before this one: seen for now, not for good
                seen = seen.fork()
                seen.add(map(int, rows.history[slot, known:position]), 1)
            seen.penalise(logits[i])


class _Seen:
    """The distinct tokens of a row and how often each was generated."""

    def __init__(self, sampling: Sampling, prompt: int) -> None:
        self.upto = prompt  # history counted so far
        self._sampling = sampling
        self._at: dict[int, int] = {}
        self._ids = np.zeros(64, np.int64)
        self._count = np.zeros(64, np.float32)

    def add(self, tokens: Iterable[int], times: int) -> None:
        for token in tokens:
            i = self._at.setdefault(token, len(self._at))
            if i == len(self._ids):
                self._grow()
            self._ids[i] = token
            self._count[i] += times

    def fork(self) -> _Seen:
        copy = _Seen(self._sampling, self.upto)
        copy._at, copy._ids, copy._count = dict(self._at), self._ids.copy(), self._count.copy()
        return copy

    def penalise(self, row: NDArray[np.float32]) -> None:
        """Edits one row of logits [vocab] in place."""
        s, n = self._sampling, len(self._at)
        ids, count = self._ids[:n], self._count[:n]
        x = row[ids]
        r = np.float32(s.repetition_penalty)
        x = np.where(x > 0, x / r, x * r)
        x -= np.float32(s.frequency_penalty) * count
        x -= np.float32(s.presence_penalty) * (count > 0)
        row[ids] = x

    def _grow(self) -> None:
        self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
        self._count = np.concatenate([self._count, np.zeros_like(self._count)])
