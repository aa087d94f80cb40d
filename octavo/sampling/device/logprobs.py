"""sampling/logprobs.py on the device: the same scores, left there until somebody reads them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from octavo.ops.triton.sample_score import taken

_AT_ONCE = 1 << 22  # logits ranked at once: each takes 8 bytes for a while, and as much in topk


class DeviceScores(NamedTuple):
    """sampling.logprobs.Scores without the tokens, which the caller has."""

    logprob: Tensor  # [m] float32
    rank: Tensor  # [m] int32
    top_ids: Tensor  # [m, k] int64, by falling log-probability, then rising id
    top_logprobs: Tensor  # [m, k] float32
    top_ranks: Tensor | None = None  # [m, k]; None: 1, 2, ...


def score(logits: Tensor, tokens: Tensor, alternatives: int, named: Tensor | None = None) -> DeviceScores:
    """[m, vocab] float32 raw logits and the [m] tokens that were taken; -1 alternatives: the vocabulary.
    With `named` ids [k] those are reported, and nothing else."""
    rows, vocab = logits.shape
    norms, logprobs, ranks = taken(logits, tokens)
    if named is not None:
        values = logits.index_select(1, named)
        scored = DeviceScores(logprobs, ranks, named.expand(rows, -1), values - norms[:, None])
        return scored._replace(top_ranks=_ranks(logits, values))
    count = vocab if alternatives < 0 else min(alternatives, vocab)
    ids = torch.empty((rows, count), dtype=torch.int64, device=logits.device)
    slice_rows = max(1, _AT_ONCE // vocab)
    for at in range(0, rows if count else 0, slice_rows):
        ids[at : at + slice_rows] = _best(logits[at : at + slice_rows], count)
    return DeviceScores(logprobs, ranks, ids, logits.gather(1, ids) - norms[:, None])


def _ranks(logits: Tensor, values: Tensor) -> Tensor:
    """[m, vocab], [m, k] -> 1 + how many logits of the row are larger."""
    rows, vocab = logits.shape
    ranks = torch.empty(values.shape, dtype=torch.int64, device=logits.device)
    slice_rows = max(1, _AT_ONCE // vocab)
    for at in range(0, rows, slice_rows):
        part = slice(at, at + slice_rows)
        ordered = torch.sort(logits[part], dim=1).values
        ranks[part] = vocab + 1 - torch.searchsorted(ordered, values[part].contiguous(), right=True)
    return ranks


def _best(logits: Tensor, count: int) -> Tensor:
    """The ids of the `count` largest of each row, in order, the lower of equals first. Float and id make
    one integer key, because topk promises nothing about equals."""
    bits = (logits + 0.0).view(torch.int32)  # both zeros are one
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64) << 32
    keys -= torch.arange(1, logits.shape[1] + 1, device=logits.device)
    top = torch.topk(keys, count, dim=1).values
    return -(top % (1 << 32) - (1 << 32)) - 1
