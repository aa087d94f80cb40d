"""Random weights in every format, and what the kernels are to make of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from octavo.checkpoint.dequant import dequantise
from octavo.ops.cpu import lib
from octavo.ops.cpu.lib import Engine, Library, PackedWeight

BLOCKS = ("Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")
_BYTES = {"Q8_0": (32, 34), "Q4_0": (32, 18), "Q4_1": (32, 20), "Q4_K": (256, 144), "Q6_K": (256, 210)}
_SCALES = {
    "Q8_0": {0: 1.5e-3},
    "Q4_0": {0: 0.01},
    "Q4_1": {0: 0.01, 2: -0.05},
    "Q4_K": {0: 1e-3, 2: 1e-3},
    "Q6_K": {208: 1e-4},
}


class Made(NamedTuple):
    stored: Tensor  # as Engine.pack takes it
    scales: Tensor | None
    plain: Tensor  # float32 [n, k]


def make(format: str, n: int, k: int, seed: int = 0) -> Made:
    """A random matrix and its values."""
    g = torch.Generator().manual_seed(seed)
    if format in BLOCKS:
        return _blocks(format, n, k, g)
    if format == "INT8":
        w = torch.randint(-128, 128, (n, k), generator=g).to(torch.int8)
        scales = torch.rand(n, generator=g) * 1e-3
        return Made(w, scales, w.float() * scales[:, None])
    w = torch.randn(n, k, generator=g) * 0.05
    if format == "BF16":
        w = w.bfloat16()
    return Made(w, None, w.float())


def _blocks(format: str, n: int, k: int, g: torch.Generator) -> Made:
    size, nbytes = _BYTES[format]
    raw = torch.randint(0, 256, (n * k // size, nbytes), dtype=torch.uint8, generator=g)
    for at, scale in _SCALES[format].items():
        half = (torch.rand(len(raw), 1, generator=g) * scale + 1e-5).half()
        raw[:, at : at + 2] = half.view(torch.uint8)
    plain = torch.empty(n * k)
    dequantise(format, raw, size, plain)
    return Made(raw.view(n, -1), None, plain.view(n, k))


def packed(
    library: Library, engine: Engine, format: str, n: int, k: int, seed: int = 0
) -> tuple[PackedWeight, Tensor]:
    made = make(format, n, k, seed)
    weight = PackedWeight(library, format, n, k)
    engine.pack(weight, made.stored.contiguous(), 0, made.scales)
    return weight, made.plain


def rounded(format: str, x: Tensor) -> Tensor:
    """What is left of activations [m, k] when a format's kernel takes them, in float64."""
    if format == "F32":
        return x.double()
    if format == "BF16":
        return x.bfloat16().double()
    size = x.shape[1] if format == "INT8" else lib.BLOCK
    parts = x.view(x.shape[0], -1, size)
    top = parts.abs().amax(-1, keepdim=True)
    inverse = torch.where(top > 0, 127.0 / top, 0.0)
    return ((parts * inverse).round().double() * (top / 127.0).double()).view_as(x)


def off(got: Tensor, want: Tensor) -> float:
    """Relative error in the 2-norm."""
    return float((got.double() - want.double()).norm() / want.double().norm())
