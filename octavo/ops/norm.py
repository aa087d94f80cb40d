"""Root-mean-square normalisation."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from octavo.ops.op import op


@op
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., d], weight [d] -> [..., d] of x's dtype. The statistics are float32."""
    return F.rms_norm(x, weight.shape, weight, eps)
