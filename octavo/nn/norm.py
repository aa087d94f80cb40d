"""RMSNorm as a module."""

from __future__ import annotations

from torch import Tensor

from octavo.nn.build import Build
from octavo.ops import norm


class RMSNorm:
    """Over the last axis. `add` also adds a residual first and returns the sum."""

    def __init__(self, b: Build, size: int, eps: float) -> None:
        self.weight = b.parameter("weight", size)
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return norm.rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(norm(x + residual), x + residual)"""
        return norm.add_rms_norm(x, residual, self.weight, self.eps)
