"""What is true of every request in flight, kept on the device, and the host's writes to it.

One arena of int32 words holds the slots' tables and the plan's rows, so that whatever a plan changes
travels in one copy from pinned memory and one launch. How far a row really is, is known on the
device alone; the host keeps a mirror of page tables, which only it writes. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.core.facts import CacheGroup
from octavo.core.messages import Admission
from octavo.ops.triton.step import PIECE, scatter
from octavo.runner.cuda.upload import Uploads

_AHEAD = 16  # positions behind the last one that may have pages
# columns of `rows`, one value a slot each
COMPUTED, KNOWN, DONE, SAMPLES = range(4)
_EARLIEST, _LAST = range(4, 6)
COLUMNS = 6
# rows of `plan`
SLOT, COUNT, LOGITS, SKIP = range(4)


class State:
    """Tables of `rows` slots for requests of up to `length` tokens.

    tokens [rows, length + 1]; tables: per cache group [rows, pages]; columns [6, rows] (see above); ends
    [rows, words]: a bitmap of the ids that end a row, eos first and then the others [2, ...]; plan
    [4, rows]: slot, count, logits and skip of each row of the step. All int32.
    """

    def __init__(
        self, rows: int, length: int, vocab: int, groups: Sequence[CacheGroup], device: torch.device
    ) -> None:
        self.slots, self.length = rows, length
        words = -(-vocab // 32)
        pages = [-(-(length + _AHEAD) // g.tokens_per_page) for g in groups]
        shapes = [
            (rows, length + 1), (COLUMNS, rows), (2, rows, words), (4, rows), (1,),
            *((rows, p) for p in pages),
        ]  # fmt: skip
        self._at = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])
        self._arena = torch.zeros(int(self._at[-1]), dtype=torch.int32, device=device)
        views = [
            self._arena[a:b].view(shape)
            for a, b, shape in zip(self._at[:-1], self._at[1:], shapes, strict=True)
        ]
        self.tokens, self.columns, self.ends, self.plan, self.shared, *self.tables = views
        self.columns[DONE] = 1  # runs empty; so does a slot nobody holds
        self.mirror = [np.zeros((rows, p), np.int32) for p in pages]
        self._changed: dict[tuple[int, int], tuple[int, int]] = {}  # (group, slot) -> blocks to upload
        self._words = words
        self._bits: dict[int, list[int]] = {}  # slot -> arena words of `ends` that are not zero
        self._uploads = Uploads(device)

    @property
    def settled_columns(self) -> tuple[Tensor, ...]:
        """Those that the end of a step reads and writes (ops.triton.settle)."""
        columns = (COMPUTED, KNOWN, DONE, SAMPLES, _EARLIEST, _LAST)
        return tuple(self.columns[column] for column in columns)

    @staticmethod
    def nbytes(rows: int, length: int, vocab: int, page: int, groups: int) -> int:
        """What the tables take, for the memory plan."""
        pages = -(-(length + _AHEAD) // page)
        return 4 * rows * (length + 1 + COLUMNS + 2 * -(-vocab // 32) + 4 + groups * pages)

    def admit(self, a: Admission) -> None:
        slot, s = a.slot, a.sampling
        self._write(self._token(slot, 0), a.tokens)
        self._column(COMPUTED, slot, a.start)
        self._column(KNOWN, slot, len(a.tokens))
        self._column(DONE, slot, 0)
        self._column(SAMPLES, slot, int(s is not None and s.max_tokens > 0))
        self._column(_EARLIEST, slot, a.prompt + (s.min_tokens if s else 0) - 1)
        self._column(_LAST, slot, min(a.prompt + (s.max_tokens if s else 0), self.length) - 1)
        self._set_ends(slot, s.eos if s else (), s.stop_token_ids if s else ())

    def release(self, slot: int) -> None:
        self._column(DONE, slot, 1)

    def feed(self, slot: int, position: int, tokens: Sequence[int]) -> None:
        """Tokens the device does not have."""
        self._write(self._token(slot, position), tokens)

    def set_blocks(self, slot: int, group: int, first: int, ids: Sequence[int]) -> None:
        end = first + len(ids)
        self.mirror[group][slot, first:end] = ids
        low, high = self._changed.get((group, slot), (first, end))
        self._changed[group, slot] = min(low, first), max(high, end)

    def set_plan(self, table: NDArray[np.int32], shared: int) -> None:
        """[4, n]: the rows of the steps from now on, padding with a count of 0 included; `shared` pages."""
        self._write(int(self._at[4]), (shared,))
        for row, values in enumerate(table):
            self._write(int(self._at[3]) + row * self.slots, values)

    def flush(self) -> None:
        """Carries out everything written since the last time, in order, behind what runs already."""
        for (group, slot), (low, high) in self._changed.items():
            row = self.mirror[group][slot]
            self._write(int(self._at[5 + group]) + slot * len(row) + low, row[low:high])
        self._changed.clear()
        for staging, segments in self._uploads.take():
            scatter(self._arena, staging, segments)

    def _token(self, slot: int, position: int) -> int:
        return slot * (self.length + 1) + position

    def _column(self, column: int, slot: int, value: int) -> None:
        self._write(int(self._at[1]) + column * self.slots + slot, (value,))

    def _set_ends(self, slot: int, eos: Sequence[int], stop: Sequence[int]) -> None:
        words = dict.fromkeys(self._bits.pop(slot, ()), 0)
        for kind, ids in enumerate((eos, stop)):
            base = int(self._at[2]) + (kind * self.slots + slot) * self._words
            for token in ids:
                words[base + token // 32] = words.get(base + token // 32, 0) | 1 << token % 32
        for at, word in words.items():
            self._write(at, (word - (1 << 32) if word >> 31 else word,))
        if kept := [at for at, word in words.items() if word]:
            self._bits[slot] = kept

    def _write(self, at: int, values: Sequence[int] | NDArray[np.int32]) -> None:
        words = np.asarray(values, np.int32)
        for first in range(0, len(words), PIECE):
            self._uploads.add(at + first, words[first : first + PIECE])
