"""Grammar masks: bitmaps of allowed tokens that arrive with a step (core/messages.StepMasks)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octavo.core.messages import StepMasks
from octavo.sampling.stage import Logits, Rows


def apply_masks(logits: Logits, rows: Rows, masks: StepMasks) -> None:
    """Excludes, in place, what the masks do not allow. Slots that are not in the batch are skipped.

    A mask's position counts from the row's first sampled token: position 0 follows `known`.
    """
    vocab = logits.shape[1]
    words = -(-vocab // 32)
    bitmaps = np.frombuffer(masks.bits, np.uint8).reshape(len(masks.rows), words * 4)
    place = {
        (int(s), int(p - k)): i
        for i, (s, p, k) in enumerate(zip(rows.slot, rows.position, rows.known, strict=True))
    }
    for key, bitmap in zip(masks.rows, bitmaps, strict=True):
        if (i := place.get(key)) is not None:
            allowed = np.unpackbits(bitmap, count=vocab, bitorder="little").view(bool)
            _keep(logits[i], allowed)


def _keep(row: NDArray[np.float32], allowed: NDArray[np.bool_]) -> None:
    """By lists of ids, because masks allow few tokens or nearly all: several times faster than a
    boolean index."""
    if 2 * np.count_nonzero(allowed) > len(row):
        row[np.flatnonzero(~allowed)] = -np.inf
        return
    ids = np.flatnonzero(allowed)
    kept = row[ids]
    row[:] = -np.inf
    row[ids] = kept
