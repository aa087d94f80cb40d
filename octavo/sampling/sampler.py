"""The order of the stages, and the draw. Owns per-slot sampling state, knows no model and no plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from octavo.core.messages import Admission, StepMasks
from octavo.ops import sample
from octavo.sampling.allowed import AllowedIds
from octavo.sampling.bad_words import BadWords
from octavo.sampling.bias import LogitBias
from octavo.sampling.masks import apply_masks
from octavo.sampling.min_tokens import MinTokens
from octavo.sampling.penalties import Penalties
from octavo.sampling.stage import Index, Logits, LogitsStage, Rows
from octavo.sampling.temperature import Temperature
from octavo.sampling.truncate import MinP, TopKP

STAGES: tuple[Callable[[int], LogitsStage], ...] = (
    AllowedIds,
    BadWords,
    MinTokens,
    LogitBias,
    Penalties,
    Temperature,
    MinP,
    TopKP,
)


class Sampler:
    """Draws one token a row; what a row draws depends on its own slot's state and logits only."""

    def __init__(self, slots: int, stages: Sequence[Callable[[int], LogitsStage]] = STAGES) -> None:
        self._stages = [make(slots) for make in stages]
        self._wanted = np.zeros((len(stages), slots), bool)
        self._greedy = np.zeros(slots, bool)
        self._seed = np.zeros(slots, np.int64)

    def admit(self, a: Admission) -> None:
        """A request takes a slot that is free (see `release`)."""
        self._seed[a.slot] = a.seed
        self._greedy[a.slot] = a.sampling is None or a.sampling.temperature == 0
        for wanted, stage in zip(self._wanted, self._stages, strict=True):
            wanted[a.slot] = stage.admit(a)

    def release(self, slot: int) -> None:
        for wanted, stage in zip(self._wanted, self._stages, strict=True):
            if wanted[slot]:
                stage.release(slot)
                wanted[slot] = False

    def sample(self, logits: Logits, rows: Rows, masks: StepMasks | None = None) -> Index:
        """[m, vocab] float32, edited in place -> [m] token ids.

        Greedy rows take the likeliest token that is left, the lowest id of equals.
        """
        if masks is not None:
            apply_masks(logits, rows, masks)
        wanted = self._wanted[:, rows.slot]
        for i in np.flatnonzero(wanted.any(1)):
            self._stages[i].apply(logits, rows, np.flatnonzero(wanted[i]))
        greedy = self._greedy[rows.slot]
        if greedy.all():
            return sample.greedy(logits)
        seeds = self._seed[rows.slot]
        if not greedy.any():
            return sample.draw(logits, seeds, rows.position)
        tokens = np.empty(len(logits), np.int64)
        tokens[greedy] = sample.greedy(logits[greedy])
        drawn = ~greedy
        tokens[drawn] = sample.draw(logits[drawn], seeds[drawn], rows.position[drawn])
        return tokens
