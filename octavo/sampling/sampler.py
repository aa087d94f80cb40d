"""The order of the stages, and the draw. Owns per-slot sampling state, knows no model and no plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from octavo.core.messages import Admission, StepMasks
from octavo.ops import sample
from octavo.ops.cpu.lib import Engine
from octavo.ops.cpu.sample import NativeSampler, Wishes
from octavo.sampling.allowed import AllowedIds
from octavo.sampling.bad_words import BadWords
from octavo.sampling.bias import LogitBias
from octavo.sampling.masks import apply_masks
from octavo.sampling.min_tokens import MinTokens
from octavo.sampling.penalties import Penalties
from octavo.sampling.stage import Index, Logits, LogitsStage, Rows
from octavo.sampling.temperature import Temperature
from octavo.sampling.truncate import MinP, TopKP

# What a request says of single tokens, and what it says of the distribution; in this order.
EDITS: tuple[Callable[[int], LogitsStage], ...] = (AllowedIds, BadWords, MinTokens, LogitBias, Penalties)
SHAPES: tuple[Callable[[int], LogitsStage], ...] = (Temperature, MinP, TopKP)
STAGES = (*EDITS, *SHAPES)


class Sampler:
    """Draws one token a row; what a row draws depends on its own slot's state and logits only.

    `edits` come before the shapes. With an `engine` shapes and draw are one native call for all
    rows, with the same tokens.
    """

    def __init__(
        self, slots: int, edits: Sequence[Callable[[int], LogitsStage]] = EDITS, engine: Engine | None = None
    ) -> None:
        self._edits = _Stages(slots, edits)
        self._shapes = _Stages(slots, SHAPES)
        self._wishes = Wishes(slots)
        self._native = NativeSampler(engine, self._wishes) if engine is not None else None

    def admit(self, a: Admission) -> None:
        """A request takes a slot that is free (see `release`)."""
        self._wishes.set(a.slot, a.seed, a.sampling)
        self._edits.admit(a)
        self._shapes.admit(a)

    def release(self, slot: int) -> None:
        self._edits.release(slot)
        self._shapes.release(slot)

    def sample(self, logits: Logits, rows: Rows, masks: StepMasks | None = None) -> Index:
        """[m, vocab] float32, edited in place -> [m] token ids.

        Greedy rows take the likeliest token that is left, the lowest id of equals.
        """
        if masks is not None:
            apply_masks(logits, rows, masks)
        self._edits.apply(logits, rows)
        if self._native is None:
            return self._plain(logits, rows)
        tokens = self._native(logits, rows.slot, rows.position)
        if tokens.min(initial=0) < 0:  # without a likeliest token the reference says what is drawn
            odd = np.flatnonzero(tokens < 0)
            tokens[odd] = self._plain(logits[odd], rows.some(odd))
        return tokens

    def _plain(self, logits: Logits, rows: Rows) -> Index:
        """The reference: every shape as a stage, then the draw."""
        self._shapes.apply(logits, rows)
        greedy = self._wishes.temperature[rows.slot] == 0
        if greedy.all():
            return sample.greedy(logits)
        seeds = self._wishes.seed[rows.slot]
        if not greedy.any():
            return sample.draw(logits, seeds, rows.position)
        tokens = np.empty(len(logits), np.int64)
        tokens[greedy] = sample.greedy(logits[greedy])
        drawn = ~greedy
        tokens[drawn] = sample.draw(logits[drawn], seeds[drawn], rows.position[drawn])
        return tokens


class _Stages:
    """Stages in their order, and which slots want them."""

    def __init__(self, slots: int, stages: Sequence[Callable[[int], LogitsStage]]) -> None:
        self._stages = [make(slots) for make in stages]
        self._wanted = np.zeros((len(stages), slots), bool)
        self._wants: dict[int, list[int]] = {}  # slot -> its stages; absent: none

    def admit(self, a: Admission) -> None:
        wants = [i for i, stage in enumerate(self._stages) if stage.admit(a)]
        if wants:
            self._wants[a.slot] = wants
            self._wanted[wants, a.slot] = True

    def release(self, slot: int) -> None:
        for i in self._wants.pop(slot, ()):
            self._stages[i].release(slot)
            self._wanted[i, slot] = False

    def apply(self, logits: Logits, rows: Rows) -> None:
        if not self._wants:
            return
        wanted = self._wanted[:, rows.slot]
        for i in np.flatnonzero(wanted.any(1)):
            self._stages[i].apply(logits, rows, np.flatnonzero(wanted[i]))
