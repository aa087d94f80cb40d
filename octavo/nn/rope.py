"""Rotary embedding: which frequencies a config.json asks for.

Frequencies are made in float32, as the checkpoints were trained with. There is no table of
positions: the angles of a step's tokens are computed once for all layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from octavo.core.errors import ArtefactError, Unsupported
from octavo.core.hf_config import HFConfig
from octavo.nn.build import Build
from octavo.ops import rope as ops


class RopeSpec(NamedTuple):
    """`dim` leading dimensions of each head turn. `scale` multiplies cosines and sines (YaRN)."""

    dim: int
    inverse: Tensor  # [dim / 2] float32 frequencies
    scale: float = 1.0


class Rope:
    """positions [n] -> angles [n, 2, 1, dim]; computed once a step and handed to every layer."""

    def __init__(self, b: Build, spec: RopeSpec) -> None:
        self.inverse = b.constant(spec.inverse)
        self.scale = spec.scale
        # the GPU's kernels turn in float32 for nothing; a CPU would pay for the wider table
        self.dtype = torch.float32 if b.device.type == "cuda" else b.dtype

    def __call__(self, positions: Tensor) -> Tensor:
        return ops.rope_angles(positions, self.inverse, self.scale, self.dtype)


def read_rope(hf: HFConfig, head_dim: int, max_position: int) -> RopeSpec:
    """From `rope_parameters` (newer files) or `rope_theta` and `rope_scaling`."""
    params = hf.sub("rope_parameters") if hf.has("rope_parameters") else hf
    scaling = hf.sub("rope_scaling") if hf.has("rope_scaling") else params
    theta = params.number("rope_theta", hf.number("rope_theta", 10000.0, above=1), above=1)
    part = params.number("partial_rotary_factor", hf.number("partial_rotary_factor", 1.0, above=0), above=0)
    dim = int(head_dim * part)
    if dim % 2 or not 0 < dim <= head_dim:
        raise ArtefactError(
            f"{hf.source}: rotary embedding cannot turn {dim} of head_dim {head_dim}",
            hint="an even number up to head_dim can be: check head_dim and partial_rotary_factor",
            field="head_dim",
        )
    kind = scaling.raw("rope_type", scaling.raw("type", "default"))
    if not isinstance(kind, str) or kind not in _KINDS:
        raise Unsupported(
            f"{scaling.source}: rope type {kind!r:.40} is not supported",
            hint=f"known: {', '.join(sorted(_KINDS))}",
            field="rope_type",
        )
    base = theta ** -(torch.arange(0, dim, 2, dtype=torch.int64).float() / dim)
    inverse, scale = _KINDS[kind](base, scaling, _Facts(hf, theta, dim, max_position))
    return RopeSpec(dim, inverse, scale)


class _Facts(NamedTuple):
    hf: HFConfig
    theta: float
    dim: int
    max_position: int


_Made = tuple[Tensor, float]


def _default(base: Tensor, scaling: HFConfig, facts: _Facts) -> _Made:
    return base, 1.0


def _linear(base: Tensor, scaling: HFConfig, facts: _Facts) -> _Made:
    return base / scaling.number("factor", above=0), 1.0


def _llama3(base: Tensor, scaling: HFConfig, facts: _Facts) -> _Made:
    """Long wavelengths are stretched by `factor`, short ones kept, those between blended."""
    factor = scaling.number("factor", above=0)
    low = scaling.number("low_freq_factor")
    high = scaling.number("high_freq_factor", above=low)
    original = scaling.number("original_max_position_embeddings", above=0)
    turns = original * base / (2 * math.pi)  # full turns within the original context
    blend = (turns - low) / (high - low)
    middle = (1 - blend) * base / factor + blend * base
    slow = torch.where(turns < low, base / factor, middle)
    return torch.where(turns > high, base, slow), 1.0


def _factors(base: Tensor, scaling: HFConfig, facts: _Facts) -> _Made:
    """Explicit divisors, one a frequency (GGUF's rope_freqs.weight)."""
    factors = scaling.raw("factors")
    if not isinstance(factors, list) or len(factors) != len(base) or not all(map(_positive, factors)):
        raise ArtefactError(
            f"{scaling.source}: the rope factors are not {len(base)} positive numbers",
            hint="fetch the file again",
            field="factors",
        )
    return base / torch.tensor(factors, dtype=torch.float32), 1.0


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


def _yarn(base: Tensor, scaling: HFConfig, facts: _Facts) -> _Made:
    """Frequencies that turn often within the original context are kept, rare ones divided."""
    factor = scaling.number("factor", above=0)
    original = scaling.number("original_max_position_embeddings", float(facts.max_position), above=0)

    def edge(turns: float) -> float:
        return facts.dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(facts.theta))

    low, high = (
        edge(scaling.number(key, usual, above=0)) for key, usual in (("beta_fast", 32.0), ("beta_slow", 1.0))
    )
    if scaling.raw("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, facts.dim - 1)
    ramp = ((torch.arange(facts.dim // 2).float() - low) / max(high - low, 0.001)).clamp(0, 1)
    attention = scaling.number(
        "attention_factor", 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0, above=0
    )
    return base / factor * ramp + base * (1 - ramp), attention


_KINDS: dict[str, Callable[[Tensor, HFConfig, _Facts], _Made]] = {
    "default": _default,
    "dynamic": _default,  # stretches only past max_position_embeddings, which is our limit
    "linear": _linear,
    "llama3": _llama3,
    "factors": _factors,
    "yarn": _yarn,
}
