"""Attention by the native library, for any model: float32 inside, the cache in its own layout.

Models whose whole step runs natively (models/native.py) only share the layout; for all others
`run` is one small program a layer. Knows nothing of models.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from octavo.core.facts import Platform
from octavo.nn.attention import split_heads
from octavo.nn.forward import Forward, GroupInputs, HostBounds
from octavo.nn.protocols import AttnLayer, CacheSpec
from octavo.nn.protocols import Heads as Layout
from octavo.ops.cpu.lib import CACHE_TYPES, Engine
from octavo.ops.cpu.program import Heads, Program, cache_width, unsupported

_LAYER = "layer"


class NativeMeta:
    """What the layers of a group share in one step."""

    def __init__(self, group: int) -> None:
        self.group = group
        self.inputs: _Inputs | None = None


class _Inputs(NamedTuple):
    """As ops.cpu.program.Inputs, for a program of one layer."""

    tokens: Tensor
    positions: Tensor
    row_start: Tensor
    groups: tuple[GroupInputs, ...]
    caches: dict[str, Tensor]


class NativeAttention:
    """Cache: [pages, 2 (k, v), kv_heads, page, cache_width], inside a head as rows.cpp describes."""

    name = "native"

    def __init__(self, engine: Engine, cache: torch.dtype, page: int) -> None:
        self._engine, self._cache, self._page = engine, cache, page
        self._programs: dict[Heads, Program] = {}

    def supports(
        self, spec: CacheSpec, platform: Platform, dtypes: tuple[torch.dtype, ...] = ()
    ) -> str | None:
        if platform.kind != "cpu":
            return f"runs on a CPU, not on {platform.kind}"
        if self._cache not in CACHE_TYPES:
            return f"a KV cache in {self._cache}"
        if self._page % 16:
            return f"a block size of {self._page} (multiples of 16 work)"
        return unsupported(spec.kv_heads, spec.kv_heads, spec.head_dim)

    def captures(self, bounds: HostBounds) -> bool:
        return False  # nothing is, on a CPU

    def layout(self, spec: CacheSpec, pages: int, page_size: int) -> tuple[int, ...]:
        return (pages, 2, spec.kv_heads, page_size, cache_width(self._cache, spec.head_dim))

    def reserve(self, rows: int, device: torch.device) -> None:
        """Nothing is kept between steps."""

    def plan(self, spec: CacheSpec, bounds: HostBounds) -> NativeMeta:
        return NativeMeta(spec.group)

    def prepare(self, f: Forward, meta: NativeMeta) -> None:
        meta.inputs = _Inputs(f.tokens, f.positions, f.row_start, (f.groups[meta.group],), {})

    def enter(
        self, qkv: Tensor, angles: Tensor, heads: Layout, cache: Tensor, meta: NativeMeta, layer: AttnLayer
    ) -> tuple[Tensor, Tensor, Tensor]:
        return split_heads(qkv, angles, heads)

    def run(
        self, q: Tensor, k: Tensor | None, v: Tensor | None, cache: Tensor, meta: NativeMeta, layer: AttnLayer
    ) -> Tensor:
        assert k is not None and v is not None and meta.inputs is not None
        heads = Heads(
            q.shape[1], k.shape[1], q.shape[2], cache.shape[3], cache.dtype, layer.scale, 0, layer.window
        )
        if heads not in self._programs:
            program = Program(
                self._engine, ((q.shape[1] + 2 * k.shape[1]) * q.shape[2], q.shape[1] * q.shape[2])
            )
            program.attention(_LAYER, 0, 1, heads)
            self._programs[heads] = program
        qkv = torch.cat((q.flatten(1), k.flatten(1), v.flatten(1)), 1).float()
        out = torch.empty(q.shape[0], q.shape[1] * q.shape[2])
        self._programs[heads].run(q.shape[0], {0: qkv, 1: out}, meta.inputs._replace(caches={_LAYER: cache}))
        return out.to(q.dtype)
