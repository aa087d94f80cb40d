"""Linear: one projection, or several over the same input fused by name.

Knows nothing of how weights are stored: the scope's quantisation does.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from octavo.nn.build import Build
from octavo.nn.norm import RMSNorm
from octavo.nn.protocols import Part


class Linear:
    """`Linear(b, (Part("q_proj", 64), Part("k_proj", 16)), 64)` fills its rows from
    b/q_proj and b/k_proj. Call: [n, n_in] -> [n, sum of rows]. `norm` goes before the product,
    the gated activation `act` after it (half as wide), or `before` it (x is twice as wide), and
    all is added to `residual`, which is used up: together they are one kernel where there is one."""

    def __init__(self, b: Build, parts: Sequence[Part], n_in: int, *, bias: bool = False) -> None:
        self.sizes = [part.rows for part in parts]
        self._weights = b.quant.linear(b, parts, n_in, bias)
        b.on_finish(self._weights)

    def __call__(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        *,
        norm: RMSNorm | None = None,
        act: str | None = None,
        before: str | None = None,
    ) -> Tensor:
        gain, eps = (None, 0.0) if norm is None else (norm.weight, norm.eps)
        return self._weights(x, residual, gain, eps, act, before)

    def gates(self, n: int) -> bool:
        """Whether n rows had better be gated here (`before`) than by the projection that makes them."""
        return self._weights.gates(n)
