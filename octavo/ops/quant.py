"""Projections stored in 8 bits (e4m3), one scale an output: what they compute, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.ops.activation import GATES
from octavo.ops.norm import rms_norm
from octavo.ops.op import op

EIGHT = torch.float8_e4m3fn
LARGEST = 448.0  # of e4m3
_LEAST = 1e-12  # a scale is never zero


@op
def to_eight_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [n_out, n_in] -> e4m3 [n_out, n_in] and float32 scales [n_out]: weight = e4m3 * scale."""
    scale = (weight.abs().amax(1).float() / LARGEST).clamp_min(_LEAST)
    return (weight.float() / scale[:, None]).clamp(-LARGEST, LARGEST).to(EIGHT), scale


@op
def project_eight(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    gain: Tensor | None = None,
    eps: float = 0.0,
    act: str | None = None,
    before: str | None = None,
) -> Tensor:
    """As octavo.ops.matmul.project with weights of e4m3 [n_out, n_in] times scale [n_out].

    `before`: x [n, 2 n_in] first goes through that gated activation, and no norm. A kernel may round
    x to 8 bits as well, with one scale a row.
    """
    x = x if before is None else GATES[before](x)
    h = x if gain is None else rms_norm(x, gain, eps)
    y = (h.float() @ weight.float().t()) * scale
    y = (y if bias is None else y + bias.float()).to(x.dtype)
    y = y if act is None else GATES[act](y)
    return y if residual is None else residual + y
