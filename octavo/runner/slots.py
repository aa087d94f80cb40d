"""Device rows: what is true of every request in flight. Knows nothing of plans, models or sampling.

The host plans with upper bounds; how far a row really is, and whether it is done, is known here
alone. On a CPU the tables are numpy arrays, allocated once and read in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.core.facts import CacheGroup
from octavo.core.messages import Admission
from octavo.sampling.verify import Limits

Ints = NDArray[np.integer[Any]]
_DRAFTS = 16  # room behind the last position for drafts that are not accepted


class Slots:
    """Tables of `rows` slots for requests of up to `length` tokens.

    tokens int32 [rows, length + drafts]; tables: per cache group int32 [rows, pages];
    everything else int64 or bool [rows].
    """

    def __init__(self, rows: int, length: int, groups: Sequence[CacheGroup]) -> None:
        self.length = length
        self.tokens = np.zeros((rows, length + _DRAFTS), np.int32)
        self.tables = [
            np.zeros((rows, -(-(length + _DRAFTS) // g.tokens_per_page)), np.int32) for g in groups
        ]
        self.known = np.zeros(rows, np.int64)  # final tokens
        self.computed = np.zeros(rows, np.int64)  # positions with KV
        self.prompt = np.zeros(rows, np.int64)
        self.samples = np.zeros(rows, bool)  # False: scored or pooled only
        self.done = np.ones(rows, bool)  # runs empty; so does a slot nobody holds
        self.earliest = np.zeros(rows, np.int64)  # first position that may end a row
        self.last = np.zeros(rows, np.int64)  # last position there is a token for
        self.ends = {
            name: np.full((rows, 4), -1, np.int64) for name in ("eos", "stop")
        }  # made anew when it widens

    @staticmethod
    def nbytes(rows: int, length: int, page: int, groups: int) -> int:
        """What the tables take, for the memory plan."""
        return rows * (length + _DRAFTS) * 4 + groups * rows * -(-(length + _DRAFTS) // page) * 4 + rows * 128

    def admit(self, a: Admission) -> None:
        slot, known = a.slot, len(a.tokens)
        self.tokens[slot, :known] = a.tokens
        for table in self.tables:
            table[slot] = 0
        self.known[slot], self.computed[slot], self.prompt[slot] = known, a.start, a.prompt
        if a.fork is not None:
            assert self.computed[a.fork] >= a.start, "a fork starts where its parent has been"
        s = a.sampling
        self.samples[slot] = s is not None and s.max_tokens > 0
        self.done[slot] = False
        self.earliest[slot] = a.prompt + (s.min_tokens if s else 0) - 1
        self.last[slot] = min(a.prompt + (s.max_tokens if s else 0), self.length) - 1
        self._set_ends("eos", slot, s.eos if s else ())
        self._set_ends("stop", slot, s.stop_token_ids if s else ())

    def release(self, slot: int) -> None:
        self.done[slot] = True

    def feed(self, slot: int, position: int, tokens: Sequence[int]) -> None:
        """Tokens the device does not have: drafts to verify, or samples of another stage."""
        self.tokens[slot, position : position + len(tokens)] = tokens

    def set_blocks(self, slot: int, group: int, first: int, ids: Sequence[int]) -> None:
        self.tables[group][slot, first : first + len(ids)] = ids

    def limits(self, slots: Ints) -> Limits:
        """When the rows in `slots` end."""
        ends = self.ends
        return Limits(ends["eos"][slots], ends["stop"][slots], self.earliest[slots], self.last[slots])

    def _set_ends(self, name: str, slot: int, ids: Sequence[int]) -> None:
        table = self.ends[name]
        if len(ids) > table.shape[1]:
            wider = np.full((len(table), 2 * len(ids)), -1, np.int64)
            wider[:, : table.shape[1]] = table
            self.ends[name] = table = wider
        table[slot] = -1
        table[slot, : len(ids)] = ids
