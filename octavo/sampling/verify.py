"""Which sampled tokens count: drafts are accepted while they equal the target's own samples.

No drafts is the k = 0 case: one sample, always kept. Then the first token that ends the
request cuts what follows it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.core.messages import EOS, LENGTH, RUNNING, STOP

Ints = NDArray[np.integer[Any]]


def accept(samples: Ints, drafts: Ints, proposed: Ints) -> NDArray[np.int64]:
    """[r, w] samples, [r, w - 1] drafts of which `proposed` [r] are real -> tokens that count [r], >= 1."""
    width = drafts.shape[1]
    if width == 0:
        return np.ones(len(samples), np.int64)
    agree = (samples[:, :width] == drafts) & (np.arange(width) < proposed[:, None])
    counts: NDArray[np.int64] = 1 + np.cumprod(agree, axis=1).sum(1)
    return counts


class Limits(NamedTuple):
    """When rows end: [r] or [r, n], ids padded with -1."""

    eos: Ints
    stop: Ints
    earliest: Ints  # first position an eos or stop id ends the request at
    last: Ints  # last position there is a token for


def finish(
    samples: Ints, counts: Ints, position: Ints, limits: Limits
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Cuts `counts` at the first token that ends its row.

    samples [r, w] go to positions `position` [r] and following. Returns (counts, finished),
    finished as in StepResult.
    """
    where = position[:, None] + np.arange(samples.shape[1])
    may_end = where >= limits.earliest[:, None]
    is_eos = (samples[:, :, None] == limits.eos[:, None, :]).any(2) & may_end
    is_stop = (samples[:, :, None] == limits.stop[:, None, :]).any(2) & may_end
    why = np.select([is_eos, is_stop, where >= limits.last[:, None]], [EOS, STOP, LENGTH], RUNNING)
    why[np.arange(samples.shape[1]) >= counts[:, None]] = RUNNING
    ended = why != RUNNING
    any_end = ended.any(1)
    first = ended.argmax(1)
    reason = np.where(any_end, np.take_along_axis(why, first[:, None], 1)[:, 0], RUNNING)
    return np.where(any_end, first + 1, counts), reason.astype(np.uint8)
