"""The stages that edit logits, for rows that ask for them: a fixed few launches, whatever the rows ask."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from octavo.ops.triton.sample_edits import count_history, edit_lists, keep_allowed, penalise
from octavo.sampling.device.lists import Flat

_COUNTS = 1 << 23  # int32 elements of the counters: rows are penalised in groups that fit
_PARTS = 8  # programs that share a row's history
_STEP = 1024


class Masks(NamedTuple):
    """Grammar masks of a step."""

    bits: Tensor  # int32 [n, ceil(vocab / 32)]: bit t % 32 of word t // 32 allows token t
    which: Tensor  # int32 [m]: a row's line of bits, -1 where everything is allowed


class Edits:
    """Edits in the order of sampling/sampler.py. Owns the counters of the penalties."""

    def __init__(self, vocab: int, history: Tensor) -> None:
        self._vocab, self._history = vocab, history
        self._rows = max(1, _COUNTS // vocab)
        self._counts: Tensor | None = None

    def apply(
        self,
        logits: Tensor,
        owners: Tensor,
        positions: Tensor,
        words: Tensor,
        lists: Flat,
        masks: Masks | None,
    ) -> None:
        """Edits logits [m, vocab] float32 in place, temperature and truncation apart. Where there is no
        memory, nothing is edited yet."""
        counts = self._counters(logits.device)
        if masks is not None:
            self._keep(logits, owners, masks.which, masks.bits, by_slot=False)
        if len(lists.bitmaps):
            self._keep(logits, owners, lists.allowed, lists.bitmaps, by_slot=True)
        edit_lists[(len(logits),)](
            logits, logits.stride(0), owners, positions, words, lists.ranges, lists.ids, lists.values,
            lists.phrases, self._history, self._history.stride(0), VOCAB=self._vocab, STEP=256, num_warps=4,
        )  # fmt: skip
        for at in range(0, len(logits), len(counts)):
            part = slice(at, at + len(counts))
            self._penalise(counts, logits[part], owners[part], positions[part], words)

    def _counters(self, device: torch.device) -> Tensor:
        """[rows, vocab] of zeros, made on first use: for as many rows as there is memory for."""
        while self._counts is None:
            try:
                self._counts = torch.zeros((self._rows, self._vocab), dtype=torch.int32, device=device)
            except torch.OutOfMemoryError:
                if self._rows == 1:
                    raise
                self._rows //= 2
        return self._counts

    def _keep(self, logits: Tensor, owners: Tensor, which: Tensor, bits: Tensor, *, by_slot: bool) -> None:
        keep_allowed[(triton.cdiv(self._vocab, _STEP), len(logits))](
            logits, logits.stride(0), which, owners, bits,
            VOCAB=self._vocab, BY_SLOT=by_slot, STEP=_STEP, num_warps=4,
        )  # fmt: skip

    def _penalise(
        self, counts: Tensor, logits: Tensor, owners: Tensor, positions: Tensor, words: Tensor
    ) -> None:
        grid, length = (_PARTS, len(logits)), self._history.stride(0)
        count_history[grid](
            counts, owners, positions, words, self._history, length,
            VOCAB=self._vocab, PARTS=_PARTS, STEP=_STEP, num_warps=4,
        )  # fmt: skip
        penalise[grid](  # every operation rounded, as numpy does
            logits, logits.stride(0), counts, owners, positions, words, self._history, length,
            VOCAB=self._vocab, PARTS=_PARTS, STEP=_STEP, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
