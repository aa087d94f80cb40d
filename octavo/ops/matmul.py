"""Projections."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from octavo.ops.activation import GATES
from octavo.ops.norm import rms_norm
from octavo.ops.op import op


@op
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
    """x [n, n_in], weight [n_out, n_in], bias [n_out], residual [n, n_out] -> [n, n_out].

    The residual is used up: a kernel may return its storage.
    """
    y = F.linear(x, weight, bias)
    return y if residual is None else residual + y


@op
def project(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    gain: Tensor | None = None,
    eps: float = 0.0,
    act: str | None = None,
) -> Tensor:
    """A projection with what stands around it: act(linear(norm(x))) + residual.

    `gain` [n_in] and `eps` are a root-mean-square norm's; `act` names a gated activation, whose
    result is half as wide. The residual is used up, as linear's.
    """
    h = x if gain is None else rms_norm(x, gain, eps)
    if act is None:
        return linear(h, weight, bias, residual)
    y = GATES[act](linear(h, weight, bias))
    return y if residual is None else residual + y


@op
def head_logits(x: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """x [m, hidden], weight [vocab, hidden] -> float32 [m, vocab], in `out` where given."""
    logits = linear(x, weight).float()
    return logits if out is None else out.copy_(logits)


def _few_rows_of_bfloat16(x: Tensor, *_: Tensor | None) -> bool:
    return x.dtype == torch.bfloat16 and x.shape[0] <= _FEW


_FEW = 32  # rows up to which the weights' bytes cost more than the arithmetic


@linear.kernel("cpu", when=_few_rows_of_bfloat16)
def _weight_first(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None
) -> Tensor:
    # oneDNN streams the matrix 1.3 to 1.6 times as fast when it is the left operand, and a
    # product with one column takes a slow path of its own
    columns = x.t() if x.shape[0] > 1 else x.t().expand(-1, 2)
    y = torch.mm(weight, columns)[:, : x.shape[0]].t().contiguous()
    if bias is not None:
        y.add_(bias)
    return y if residual is None else y.add_(residual)
