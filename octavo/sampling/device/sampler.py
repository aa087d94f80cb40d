"""The device's sampler: parameters of slots, edits, the draw. The numpy one (sampling/sampler.py) is its
reference; a seeded row draws the same token on both, up to rounding where two tokens nearly tie."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.core.messages import Admission
from octavo.ops.triton.sample import Workspace, draw_plain, draw_truncated
from octavo.sampling.device.edits import Edits, Masks
from octavo.sampling.device.lists import Lists
from octavo.sampling.device.params import FULL, VARIANTS, Params


class DeviceSampler:
    """One token for each of up to `rows` rows of logits. `history` [slots, length] int32 is the device's."""

    def __init__(self, slots: int, rows: int, vocab: int, history: Tensor) -> None:
        device = history.device
        self._params = Params(slots, device)
        self._lists = Lists(slots, vocab, device)
        self._edits = Edits(vocab, history)
        self._work = Workspace(rows, vocab, device)
        self._out = torch.zeros(rows, dtype=torch.int32, device=device)

    @staticmethod
    def nbytes(rows: int, vocab: int) -> int:
        """For the memory plan: the workspace, and the counters that penalties need."""
        return Workspace.nbytes(rows, vocab) + max(4 << 23, 4 * vocab)

    def admit(self, a: Admission) -> None:
        """A request takes a slot that is free; nothing reaches the device before `flush`."""
        self._params.admit(a)
        self._lists.admit(a)

    def release(self, slot: int) -> None:
        self._params.release(slot)
        self._lists.release(slot)

    def variant(self, slots: NDArray[np.integer], masked: bool) -> str:
        """The least that serves these slots: "greedy", "random", "truncated" or "full". Each serves what
        those before it do."""
        return VARIANTS[FULL if masked else self._params.kind(slots)]

    def flush(self) -> None:
        """Uploads what was admitted since; before the step, outside of graphs."""
        self._params.flush()

    def sample(
        self, logits: Tensor, owners: Tensor, positions: Tensor, variant: str, masks: Masks | None = None
    ) -> Tensor:
        """[m, vocab] float32 logits, [m] int32 slots, [m] int64 positions the tokens go to -> [m] int32,
        in a buffer that the next call overwrites.

        All variants but "full" can be captured in a graph and leave the logits as they are.
        """
        out, words = self._out[: len(logits)], self._params.words
        if variant == "full":
            self._edits.apply(logits, owners, positions, words, self._lists.flat(), masks)
        if variant in ("greedy", "random"):
            draw_plain(logits, owners, positions, words, out, self._work, noise=variant == "random")
        else:
            draw_truncated(logits, owners, positions, words, out, self._work)
        return out
