"""Log-probabilities of the model's own distribution, before any stage touched it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.ops import sample

Ints = NDArray[np.integer[Any]]


class Wish(NamedTuple):
    """What a request wants to know of a position: so many alternatives, or the tokens it names."""

    alternatives: int
    named: tuple[int, ...] = ()


class Scores(NamedTuple):
    """What is reported of one or more positions. `rank` is 1 + the number of likelier tokens."""

    token: Ints  # [m]
    logprob: NDArray[np.float32]  # [m]
    rank: Ints  # [m]
    top_ids: Ints  # [m, k], by falling log-probability
    top_logprobs: NDArray[np.float32]  # [m, k]
    top_ranks: Ints | None = None  # [m, k]; None: 1, 2, ...


def score(logits: NDArray[np.float32], tokens: Ints, alternatives: int, named: Sequence[int] = ()) -> Scores:
    """[m, vocab] raw logits and the [m] tokens that were taken; -1 alternatives: the whole vocabulary.
    With `named` ids those are reported, and nothing else."""
    norm = log_sum_exp(logits)[:, None]
    taken = np.take_along_axis(logits, tokens[:, None].astype(np.int64), 1)
    rank = 1 + np.count_nonzero(logits > taken, axis=1)
    best, places = _named(logits, named) if named else (_likeliest(logits, alternatives), None)
    return Scores(tokens, (taken - norm)[:, 0], rank, best.ids, best.logits - norm, places)


def _likeliest(logits: NDArray[np.float32], alternatives: int) -> sample.Ranked:
    count = logits.shape[1] if alternatives < 0 else min(alternatives, logits.shape[1])
    if count:
        return sample.ranked(logits, count)
    return sample.Ranked(*(np.zeros((len(logits), 0), t) for t in (int, "f4")))


def _named(logits: NDArray[np.float32], ids: Sequence[int]) -> tuple[sample.Ranked, Ints]:
    """Their logits and ranks."""
    index = np.array(ids, np.int64)
    values = logits[:, index]
    pairs = zip(np.sort(logits, axis=1), values, strict=True)
    likelier = [logits.shape[1] - np.searchsorted(row, wanted, side="right") for row, wanted in pairs]
    return sample.Ranked(np.broadcast_to(index, values.shape), values), 1 + np.stack(likelier)


def log_sum_exp(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """[m, vocab] -> [m]"""
    top = logits.max(1, keepdims=True)
    norm: NDArray[np.float32] = top[:, 0] + np.log(np.exp(logits - top).sum(1))
    return norm
