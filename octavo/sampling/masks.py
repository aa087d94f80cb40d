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
            limits = np.take(_LIMITS, bitmap, axis=0).reshape(-1)[:vocab]
            np.minimum(logits[i], limits, out=logits[i])


# What eight tokens may reach at most, for each byte of a bitmap: a table is several times faster than
# a boolean index, and as fast for masks that allow half of all tokens as for those that allow few.
_LIMITS: NDArray[np.float32] = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"),
    np.float32(np.inf),
    np.float32(-np.inf),
)
