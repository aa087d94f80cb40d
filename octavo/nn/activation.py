"""Gated activations by the name a config.json uses."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from octavo.ops import activation

GATED: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": activation.silu_mul,
    "swish": activation.silu_mul,
    "gelu": activation.gelu_mul,
    "gelu_new": activation.gelu_tanh_mul,
    "gelu_pytorch_tanh": activation.gelu_tanh_mul,
}
