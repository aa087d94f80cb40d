"""Log-probability and rank of one token a row: one read of the logits, cut into parts."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_STEP = 2048
_STEPS = 4  # of one program


@triton.jit
def _token(tokens, row, VOCAB: tl.constexpr):
    """The token of a row; a row without finite logits may have drawn what is none."""
    return tl.minimum(tl.maximum(tl.load(tokens + row), 0), VOCAB - 1)


@triton.jit
def _look(
    logits, stride, tokens, tops, sums, above, VOCAB: tl.constexpr, PARTS: tl.constexpr, STEPS: tl.constexpr,
    STEP: tl.constexpr,
):  # fmt: skip
    """Per part: the largest logit, the softmax's denominator relative to it, how many logits exceed the
    token's. Grid (PARTS, rows)."""
    part, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    line = logits + row * stride
    taken = tl.load(line + _token(tokens, row, VOCAB))
    top = tl.full([STEP], float("-inf"), tl.float32)
    total, more = tl.zeros([STEP], tl.float32), tl.zeros([STEP], tl.int32)
    for step in tl.static_range(STEPS):
        token = (part * STEPS + step) * STEP + tl.arange(0, STEP)
        x = tl.load(line + token, mask=token < VOCAB, other=float("-inf"))
        peak = tl.maximum(tl.maximum(top, x), -3.4e38)
        total = total * tl.exp(top - peak) + tl.exp(x - peak)
        top = peak
        more += (x > taken).to(tl.int32)
    best = tl.max(top, 0)
    at = row * PARTS + part
    tl.store(tops + at, best)
    tl.store(sums + at, tl.sum(total * tl.exp(top - best), 0))
    tl.store(above + at, tl.sum(more, 0))


@triton.jit
def _sum_up(
    logits, stride, tokens, tops, sums, above, norms, logprobs, ranks, VOCAB: tl.constexpr,
    PARTS: tl.constexpr, PARTS_UP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, PARTS_UP)
    at, real = row * PARTS + part, part < PARTS
    top = tl.load(tops + at, mask=real, other=float("-inf"))
    best = tl.max(top, 0)
    total = tl.sum(tl.load(sums + at, mask=real, other=0.0) * tl.exp(top - best), 0)
    norm = best + tl.log(total)
    tl.store(norms + row, norm)
    tl.store(logprobs + row, tl.load(logits + row * stride + _token(tokens, row, VOCAB)) - norm)
    tl.store(ranks + row, 1 + tl.sum(tl.load(above + at, mask=real, other=0), 0))


def taken(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[m, vocab] float32, [m] -> (log of the softmax's denominator, log-probability, rank): [m] each.

    The rank is 1 + the number of likelier tokens, int32.
    """
    rows, vocab = logits.shape
    parts = triton.cdiv(vocab, _STEP * _STEPS)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=logits.device)

    tops, sums, above = empty(rows, parts), empty(rows, parts), empty(rows, parts, dtype=torch.int32)
    norms, logprobs, ranks = empty(rows), empty(rows), empty(rows, dtype=torch.int32)
    if rows == 0:
        return norms, logprobs, ranks
    stride = logits.stride(0)
    _look[(parts, rows)](
        logits, stride, tokens, tops, sums, above,
        VOCAB=vocab, PARTS=parts, STEPS=_STEPS, STEP=_STEP, num_warps=8,
    )  # fmt: skip
    _sum_up[(rows,)](
        logits, stride, tokens, tops, sums, above, norms, logprobs, ranks,
        VOCAB=vocab, PARTS=parts, PARTS_UP=triton.next_power_of_2(parts), num_warps=1,
    )  # fmt: skip
    return norms, logprobs, ranks
