"""What a config.json calls a gated activation, and its name in octavo.ops.activation.GATES."""

from __future__ import annotations

GATE_NAMES: dict[str, str] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
