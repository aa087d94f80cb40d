"""Attention as a layer: registers what it keeps, calls the backend."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from octavo.core.facts import CacheGroup
from octavo.nn.build import Build
from octavo.nn.forward import Forward
from octavo.nn.protocols import AttentionBackend, AttnLayer, CacheSpec


class Attention:
    """q [n, heads, d], k and v [n, kv_heads, d] -> [n, heads * d] over the paged cache."""

    def __init__(
        self, b: Build, kv_heads: int, head_dim: int, *, scale: float | None = None, window: int = 0
    ) -> None:
        self._spec = b.cache(kv_heads, head_dim, window)
        self._layer = AttnLayer(scale if scale is not None else head_dim**-0.5, window)
        self._backend = b.backend

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, f: Forward) -> Tensor:
        spec = self._spec
        return self._backend.run(q, k, v, f.caches[spec.name], f.meta[spec.group], self._layer)


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
