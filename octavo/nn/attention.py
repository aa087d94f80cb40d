"""Attention as a layer: registers what it keeps, calls the backend."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from octavo.core.facts import CacheGroup
from octavo.nn.build import Build
from octavo.nn.forward import Forward
from octavo.nn.protocols import AttentionBackend, AttnLayer, CacheSpec, Heads
from octavo.ops import basic
from octavo.ops.norm import rms_norm
from octavo.ops.rope import rope


class Attention:
    """A fused projection qkv [n, (heads + 2 kv_heads) * d] -> [n, heads * d] over the paged cache."""

    def __init__(self, b: Build, heads: Heads, *, scale: float | None = None, window: int = 0) -> None:
        self._spec = b.cache(heads.kv_heads, heads.head_dim, window)
        self._heads = heads
        self._layer = AttnLayer(scale if scale is not None else heads.head_dim**-0.5, window)
        self._backend = b.backend

    def __call__(self, qkv: Tensor, angles: Tensor, f: Forward) -> Tensor:
        cache, meta = f.caches[self._spec.name], f.meta[self._spec.group]
        q, k, v = self._backend.enter(qkv, angles, self._heads, cache, meta, self._layer)
        return self._backend.run(q, k, v, cache, meta, self._layer)


def split_heads(qkv: Tensor, angles: Tensor, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """What `AttentionBackend.enter` does where nothing is fused: split, norm, turn."""
    d = heads.head_dim
    sizes = [heads.heads * d, heads.kv_heads * d, heads.kv_heads * d]
    q, k, v = (basic.heads(t, d) for t in basic.split(qkv, sizes))
    if heads.q_norm is not None and heads.k_norm is not None:
        q, k = rms_norm(q, heads.q_norm, heads.eps), rms_norm(k, heads.k_norm, heads.eps)
    return rope(q, angles), rope(k, angles), v


def cache_groups(specs: Sequence[CacheSpec], page_size: int) -> tuple[CacheGroup, ...]:
    """The groups in the order of `CacheSpec.group`."""
    first = {spec.group: spec for spec in reversed(specs)}
    return tuple(
        CacheGroup("full" if s.kind == "full" else f"window{s.window}", s.kind, page_size, s.window)
        for _, s in sorted(first.items())
    )


def prepare(backend: AttentionBackend, specs: Sequence[CacheSpec], f: Forward) -> None:
    """Once a step, before the model: fills `f.meta` for every group."""
    first = {spec.group: spec for spec in reversed(specs)}
    for group, spec in sorted(first.items()):
        meta = backend.plan(spec, f.bounds)
        backend.prepare(f, meta)
        f.meta[group] = meta
