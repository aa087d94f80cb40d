"""Gated activations by the name a config.json uses."""

from __future__ import annotations

# octavo.ops.activation.GATES by the same names
GATED: dict[str, str] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
