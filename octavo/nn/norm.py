"""RMSNorm as a module."""

from __future__ import annotations

from torch import Tensor

from octavo.nn.build import Build
from octavo.ops import norm


class RMSNorm:
    """Over the last axis."""

    def __init__(self, b: Build, size: int, eps: float) -> None:
        self.weight = b.parameter("weight", size)
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return norm.rms_norm(x, self.weight, self.eps)
