"""Projections in 8 bits (float8 e4m3), one scale an output channel or a whole matrix.

Either rounded while an unquantised checkpoint is read (`quantization="fp8"`), matrix by matrix, so
that the whole model never lies in memory in 16 bits; or stored that way by the checkpoint.
Activations get their scales as they come. Embedding, head and norms keep their dtype.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from octavo.core.errors import ArtefactError, Unsupported
from octavo.core.facts import Platform, TensorInfo
from octavo.core.hf_config import HFConfig
from octavo.nn.build import Build
from octavo.nn.protocols import Part, Weights
from octavo.ops.quant import EIGHT, project_eight, to_eight_bits
from octavo.quant.none import PlainWeights

_FEW = 64  # rows whose gated activation costs nothing after the product that makes them


class Fp8:
    """`stored`: the checkpoint holds e4m3 and scales; otherwise they are made while it is read."""

    name = "fp8"

    def __init__(self, stored: bool) -> None:
        self.stored = stored

    @classmethod
    def detect(cls, hf: HFConfig, index: Mapping[str, TensorInfo]) -> Fp8 | None:
        """A checkpoint of e4m3 with a scale a matrix or a channel."""
        if not hf.has("quantization_config"):
            return None
        said = hf.sub("quantization_config")
        if said.raw("quant_method", None) != "fp8":
            return None
        if said.has("weight_block_size"):
            raise Unsupported(
                f"{hf.source}: fp8 weights with a scale a block are not supported",
                hint="use files with a scale a channel, or the unquantized ones with quantization=fp8",
                field="quantization_config",
            )
        return cls(stored=True)

    def linear(self, b: Build, parts: Sequence[Part], n_in: int, bias: bool) -> Weights:
        if self.stored and not any(_is_eight(b, part) for part in parts):
            return PlainWeights(b, parts, n_in, bias)  # left out by whoever quantised the checkpoint
        return Fp8Weights(b, parts, n_in, bias, self.stored)


def why_not_fp8(platform: Platform) -> str | None:
    """None where 8-bit products run, otherwise the reason."""
    if platform.kind != "cuda":
        return f"8-bit products run on a GPU, not on {platform.kind}"
    if int(platform.features[0].removeprefix("sm")) < 89:
        return f"8-bit products need compute capability 8.9, {platform.name} has {platform.features[0]}"
    return None


def _is_eight(b: Build, part: Part) -> bool:
    found = b.index.get((b / part.name).name("weight"))
    return found is not None and found.dtype == "F8_E4M3"


class Fp8Weights:
    """One matrix [n_out, n_in] of e4m3 and a float32 scale for each of its rows."""

    def __init__(self, b: Build, parts: Sequence[Part], n_in: int, bias: bool, stored: bool) -> None:
        rows = sum(part.rows for part in parts)
        self.weight = b.empty(rows, n_in, dtype=EIGHT)
        self.scale = b.empty(rows, dtype=torch.float32)
        self.bias = b.empty(rows) if bias else None
        at = 0
        for part in parts:
            scope, end = b / part.name, at + part.rows
            weight, scale = self.weight[at:end], self.scale[at:end]
            if stored:
                scope.sink("weight", weight)
                _stored_scale(scope, scale)
            else:
                asked = torch.empty(part.rows, n_in, dtype=b.dtype, device="meta")
                scope.sink("weight", asked, partial(_round, weight, scale))
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
        return project_eight(x, self.weight, self.scale, self.bias, residual, gain, eps, act, before)

    def gates(self, n: int) -> bool:
        """Many rows are rounded to 8 bits in the pass that gates them."""
        return n > _FEW

    def finish(self) -> None:
        """Nothing to repack."""


def _round(weight: Tensor, scale: Tensor, tensor: Tensor) -> None:
    values, scales = to_eight_bits(tensor)
    weight.copy_(values)
    scale.copy_(scales)


def _spread(scale: Tensor, tensor: Tensor) -> None:
    scale.copy_(tensor.reshape(-1))


def _stored_scale(scope: Build, scale: Tensor) -> None:
    """One number, or one a row, under the name the checkpoint uses."""
    name = scope.name("weight_scale")
    found = scope.index.get(name)
    shape = () if found is None else found.shape
    if shape not in ((), (1,), (len(scale),), (len(scale), 1)):
        raise ArtefactError(
            f"{name} has shape {shape}: expected one scale, or {len(scale)} of them",
            hint="scales a block are not supported",
        )
    asked = torch.empty(shape, dtype=torch.float32, device="meta")
    scope.sink("weight_scale", asked, partial(_spread, scale))
    scope.ignore("input_scale")  # activations get theirs as they come
