"""The device's sampler: parameters of slots, edits, the draw. The numpy one (sampling/sampler.py) is its
reference; a seeded row draws the same token on both, up to rounding where two tokens nearly tie."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.core.messages import Admission, StepMasks
from octavo.ops.triton.sample import Batch, Workspace, draw
from octavo.sampling.device.edits import Edits, Masks
from octavo.sampling.device.lists import Lists
from octavo.sampling.device.params import FULL, VARIANTS, Params
from octavo.sampling.device.upload import upload


class DeviceSampler:
    """One token a row, for up to `slots` rows. `history` [slots, length] int32 holds the slots' tokens."""

    def __init__(self, slots: int, vocab: int, history: Tensor, device: torch.device) -> None:
        self._slots, self._device = slots, device
        self._params = Params(slots, device)
        self._lists = Lists(slots, vocab, device)
        self._edits = Edits(vocab, history)
        self._work = Workspace(slots, vocab, device)

    @staticmethod
    def nbytes(slots: int, vocab: int) -> int:
        """What it keeps from the start; penalties take 32 MiB more from their first use on."""
        return Workspace.nbytes(slots, vocab)

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

    def edited(self, slots: NDArray[np.integer], masks: StepMasks | None) -> list[int]:
        """Places among these slots of those that only "full" serves."""
        masked = {slot for slot, _ in masks.rows} if masks is not None else set()
        full = [self._params.kind(slots[row : row + 1]) == FULL for row in range(len(slots))]
        return [row for row, slot in enumerate(map(int, slots)) if full[row] or slot in masked]

    def flush(self) -> None:
        """Uploads what was admitted since; before the step, outside of graphs."""
        self._params.flush()

    def bitmaps(self, slots: NDArray[np.integer], masks: StepMasks) -> Masks:
        """Uploads the masks of a step whose rows are these slots; slots not among them are passed over."""
        row_of = {int(slot): row for row, slot in enumerate(slots)}
        which = np.full(self._slots, -1, np.int32)
        for line, (slot, _) in enumerate(masks.rows):
            if slot in row_of:
                which[row_of[slot]] = line
        bits = np.frombuffer(masks.bits, np.int32).reshape(len(masks.rows), -1)
        return Masks(upload(bits, self._device), upload(which, self._device))

    def sample(
        self,
        logits: Tensor,
        owners: Tensor,
        positions: Tensor,
        variant: str,
        masks: Masks | None = None,
        *,
        out: Tensor,
    ) -> None:
        """[m, vocab] float32 logits, [m] int32 slots, [m] int64 positions the tokens go to -> [m] int32.

        All variants but "full" can be captured in a graph and leave the logits as they are.
        """
        words = self._params.words
        if variant == "full":
            self._edits.apply(logits, owners, positions, words, self._lists.flat(), masks)
            variant = "truncated"
        draw(Batch(logits, owners, positions, words, out), self._work, variant)
