"""Log-probabilities of the model's own distribution, before any stage touched it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.ops import sample

Ints = NDArray[np.integer[Any]]


class Scores(NamedTuple):
    """What is reported of one or more positions. `rank` is 1 + the number of likelier tokens."""

    token: Ints  # [m]
    logprob: NDArray[np.float32]  # [m]
    rank: Ints  # [m]
    top_ids: Ints  # [m, k], by falling log-probability
    top_logprobs: NDArray[np.float32]  # [m, k]


def score(logits: NDArray[np.float32], tokens: Ints, alternatives: int) -> Scores:
    """[m, vocab] raw logits and the [m] tokens that were taken; -1 alternatives: the whole vocabulary."""
    count = logits.shape[1] if alternatives < 0 else min(alternatives, logits.shape[1])
    norm = log_sum_exp(logits)[:, None]
    taken = np.take_along_axis(logits, tokens[:, None].astype(np.int64), 1)
    rank = 1 + np.count_nonzero(logits > taken, axis=1)
    best = (
        sample.ranked(logits, count)
        if count
        else sample.Ranked(*(np.zeros((len(tokens), 0), t) for t in (int, "f4")))
    )
    return Scores(tokens, (taken - norm)[:, 0], rank, best.ids, best.logits - norm)


def log_sum_exp(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """[m, vocab] -> [m]"""
    top = logits.max(1, keepdims=True)
    norm: NDArray[np.float32] = top[:, 0] + np.log(np.exp(logits - top).sum(1))
    return norm
