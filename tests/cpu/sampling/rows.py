"""Small builders for sampling tests."""

from __future__ import annotations

import numpy as np

from octavo.core.messages import Admission
from octavo.core.request import Sampling
from octavo.sampling.stage import Rows

WIDTH = 256


def admission(slot: int, tokens, prompt: int, seed: int = 7, **sampling) -> Admission:
    return Admission(
        slot=slot, tokens=tuple(tokens), prompt=prompt, start=0, seed=seed, sampling=Sampling(**sampling)
    )


def rows_of(
    admissions: list[Admission], extra: dict[int, tuple[int, ...]] | None = None, slots: int = 64
) -> Rows:
    """One sampled position for each admission, plus one after each draft in `extra[slot]`."""
    history = np.zeros((slots, WIDTH), np.int32)
    slot, position, known = [], [], []
    for a in admissions:
        drafts = (extra or {}).get(a.slot, ())
        line = a.tokens + drafts
        history[a.slot, : len(line)] = line
        for j in range(len(drafts) + 1):
            slot.append(a.slot)
            position.append(len(a.tokens) + j)
            known.append(len(a.tokens))
    return Rows(np.array(slot), np.array(position), np.array(known), history)


def logits_of(rows: int, vocab: int, seed: int = 0, spread: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, vocab)) * spread).astype(np.float32)
