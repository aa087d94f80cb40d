"""Projections stored as plain matrices in the model's dtype."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from octavo.core.facts import TensorInfo
from octavo.core.hf_config import HFConfig
from octavo.nn.build import Build
from octavo.nn.protocols import Part
from octavo.ops import matmul
from octavo.ops.activation import GATES


class Plain:
    """The quantisation of checkpoints that have none (or that are dequantised when read)."""

    name = "none"

    @classmethod
    def detect(cls, hf: HFConfig, index: Mapping[str, TensorInfo]) -> Plain | None:
        return None if hf.has("quantization_config") else cls()

    def linear(self, b: Build, parts: Sequence[Part], n_in: int, bias: bool) -> PlainWeights:
        return PlainWeights(b, parts, n_in, bias)


class PlainWeights:
    """One matrix [n_out, n_in]; every part fills its rows."""

    def __init__(self, b: Build, parts: Sequence[Part], n_in: int, bias: bool) -> None:
        rows = sum(part.rows for part in parts)
        self.weight = b.empty(rows, n_in)
        self.bias = b.empty(rows) if bias else None
        at = 0
        for part in parts:
            scope, end = b / part.name, at + part.rows
            scope.sink("weight", self.weight[at:end])
            if self.bias is not None:
                scope.sink("bias", self.bias[at:end])
            at = end

    def __call__(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        gain: Tensor | None = None,
        eps: float = 0.0,
        act: str | None = None,
        before: str | None = None,
    ) -> Tensor:
        x = x if before is None else GATES[before](x)
        return matmul.project(x, self.weight, self.bias, residual, gain, eps, act)

    def gates(self, n: int) -> bool:
        """The activation goes with the product before it."""
        return False

    def finish(self) -> None:
        """Nothing to repack."""
