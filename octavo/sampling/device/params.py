"""What each slot's request asks of the draw: a table on the device, and the host's knowledge of kinds."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from octavo.core.messages import Admission
from octavo.core.request import Sampling
from octavo.sampling.device.upload import upload

WORDS = 16  # int32 words of a line; their places are those of ops/triton/sample_scan.py
# What a batch of such rows needs, each more than the one before.
GREEDY, RANDOM, TRUNCATED, FULL = range(4)
VARIANTS = ("greedy", "random", "truncated", "full")


class Params:
    """A table [slots, WORDS]; changes wait on the host until `flush`."""

    def __init__(self, slots: int, device: torch.device) -> None:
        self._device = device
        self._table = torch.zeros((slots, WORDS), dtype=torch.int32, device=device)
        self._pending: dict[int, NDArray[np.int32]] = {}
        self._kind = np.zeros(slots, np.uint8)
        # of changed lines: taken once, so that `flush` never needs memory
        self._which = torch.zeros(slots, dtype=torch.int64, device=device)
        self._lines = torch.zeros((slots, WORDS // 2), dtype=torch.int64, device=device)

    @property
    def words(self) -> torch.Tensor:
        """[slots, WORDS] int32, at one place for good."""
        return self._table

    def admit(self, a: Admission) -> None:
        s = a.sampling or Sampling(temperature=0.0)
        self._kind[a.slot] = kind_of(s)
        self._pending[a.slot] = line_of(a, s)

    def release(self, slot: int) -> None:
        self._kind[slot] = GREEDY

    def kind(self, slots: NDArray[np.integer]) -> int:
        """What a batch of these slots needs."""
        return int(self._kind[slots].max(initial=GREEDY))

    def flush(self) -> None:
        """Two copies and one kernel, where something changed."""
        if not self._pending:
            return
        which = upload(np.array(list(self._pending), np.int64), self._which)
        lines = upload(np.stack(list(self._pending.values())).view(np.int64), self._lines)
        self._pending.clear()
        self._table.view(torch.int64).index_copy_(0, which, lines)


def kind_of(s: Sampling) -> int:
    penalised = (s.repetition_penalty, s.frequency_penalty, s.presence_penalty) != (1.0, 0.0, 0.0)
    late = s.min_tokens > 0 and bool(s.eos or s.stop_token_ids)
    if penalised or late or s.logit_bias or s.bad_words or s.allowed_token_ids is not None:
        return FULL
    if s.temperature == 0:
        return GREEDY
    return TRUNCATED if s.top_k > 0 or s.top_p < 1 or s.min_p > 0 else RANDOM


def line_of(a: Admission, s: Sampling) -> NDArray[np.int32]:
    line = np.zeros(WORDS, np.int32)
    line[[1, 8, 9]] = s.top_k, min(a.prompt + s.min_tokens, np.iinfo(np.int32).max), a.prompt
    floats = line.view(np.float32)
    floats[0] = s.temperature
    floats[2] = np.log(s.min_p) if s.min_p > 0 else -np.inf
    floats[12:15] = s.repetition_penalty, s.frequency_penalty, s.presence_penalty
    line.view(np.float64)[2] = s.top_p
    line.view(np.int64)[3] = a.seed
    return line
