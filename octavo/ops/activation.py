"""Gated activations: act(gate) * up over one fused tensor."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from octavo.ops.op import Op, op


@op
def silu_mul(x: Tensor) -> Tensor:
    """x [n, 2 d] = (gate, up) -> silu(gate) * up, [n, d]."""
    gate, up = x.chunk(2, -1)
    return F.silu(gate).mul_(up)


@op
def gelu_mul(x: Tensor) -> Tensor:
    """x [n, 2 d] = (gate, up) -> gelu(gate) * up, [n, d]."""
    gate, up = x.chunk(2, -1)
    return F.gelu(gate).mul_(up)


@op
def gelu_tanh_mul(x: Tensor) -> Tensor:
    """As gelu_mul with the tanh approximation."""
    gate, up = x.chunk(2, -1)
    return F.gelu(gate, approximate="tanh").mul_(up)


GATES: dict[str, Op[[Tensor], Tensor]] = {"silu": silu_mul, "gelu": gelu_mul, "gelu_tanh": gelu_tanh_mul}
