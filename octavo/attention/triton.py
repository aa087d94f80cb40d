"""Attention on NVIDIA GPUs by our own kernels (octavo/ops/triton/attention_*.py).

Rows of one token decode along a work list that balances any mix of lengths; rows of more tokens run as
tiles of queries; pages that all rows share are read once. Every launch is sized from host bounds and reads
the true lengths on the device, so steps can be captured. Loads triton only when an instance is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from octavo.core.facts import Platform
from octavo.nn.forward import Forward, GroupInputs, HostBounds
from octavo.nn.protocols import AttnLayer, CacheSpec, Heads
from octavo.ops.enter import LARGEST, enter

if TYPE_CHECKING:
    from octavo.ops.triton.attention_decode import DecodeConfig, Prefix, Workspace
    from octavo.ops.triton.attention_direct import DirectConfig
    from octavo.ops.triton.attention_entry import Entry, EntryConfig

_SMALLEST_HEAD, _LARGEST_HEAD = 16, 256
_WHOLE = (64, 128)  # head sizes of attention_fresh.py


@dataclass
class TritonMeta:
    """What the layers of a group share in one step."""

    spec: CacheSpec
    bounds: HostBounds
    direct: DirectConfig | None = None  # few rows decode without a work list
    config: DecodeConfig | None = None
    programs: int = 0
    items: Tensor | None = None  # the work list of the rows that decode
    inputs: GroupInputs | None = None
    row_start: Tensor | None = None
    owners: Tensor | None = None
    shared: Tensor | None = None  # None: nothing to read once
    fresh: tuple[Tensor, Tensor] | None = None  # a layer's keys and values, for rows that begin here
    entering: EntryConfig | None = None  # few rows that all decode enter where they attend
    entry: Entry | None = None  # of a layer between the two


class Reads(NamedTuple):
    """What the rows of a step attend with in one layer."""

    q: Tensor  # [n, heads, head_dim]
    keys: Tensor  # [pages, page, kv_heads, head_dim]
    values: Tensor
    out: Tensor  # [n, heads * head_dim]
    window: int
    scales: dict[str, Any]  # scale, softcap, k_scale, v_scale


class TritonAttention:
    """Cache: [pages, kv_heads, 2 (k, v), page, head_dim], so that a head's page is contiguous."""

    name = "triton"

    def __init__(self) -> None:
        from octavo.ops.triton import (
            attention_decode,
            attention_direct,
            attention_entry,
            attention_gather,
            attention_prefill,
            attention_prefix,
            attention_tune,
            attention_work,
            launch,
        )

        self._decode, self._prefill, self._prefix = attention_decode, attention_prefill, attention_prefix
        self._tune, self._work, self._direct = attention_tune, attention_work, attention_direct
        self._gather, self._entry, self._launch = attention_gather, attention_entry, launch
        self._rows = 0
        # never freed while the backend lives: captured graphs hold the addresses
        self._spaces: dict[tuple[int, ...], Workspace] = {}
        self._order: dict[tuple[torch.device, int], Tensor] = {}

    @staticmethod
    def supports(spec: CacheSpec, platform: Platform, dtypes: tuple[torch.dtype, ...] = ()) -> str | None:
        if platform.kind != "cuda":
            return f"runs on a GPU, not on {platform.kind}"
        if int(platform.features[0].removeprefix("sm")) < 80:
            return f"needs compute capability 8.0, {platform.name} has {platform.features[0]}"
        if not _SMALLEST_HEAD <= spec.head_dim <= _LARGEST_HEAD or spec.head_dim % 8:
            return f"head size {spec.head_dim} (multiples of 8, {_SMALLEST_HEAD} to {_LARGEST_HEAD}, work)"
        return None

    def reserve(self, rows: int, device: torch.device) -> None:
        """Steps will have up to `rows` rows: scratch memory is made for that many."""
        self._rows = max(self._rows, rows)

    def captures(self, bounds: HostBounds) -> bool:
        return True

    def layout(self, spec: CacheSpec, pages: int, page_size: int) -> tuple[int, ...]:
        return (pages, spec.kv_heads, 2, page_size, spec.head_dim)

    def plan(self, spec: CacheSpec, bounds: HostBounds) -> TritonMeta:
        return TritonMeta(spec, bounds)

    def prepare(self, f: Forward, meta: TritonMeta) -> None:
        spec, inputs, cache = meta.spec, f.groups[meta.spec.group], f.caches[meta.spec.name]
        rows = inputs.lengths.shape[0]
        meta.inputs, meta.row_start = inputs, f.row_start
        meta.owners = f.owners if f.owners is not None else self._in_order(rows, cache.device)
        if f.bounds.shared and spec.group == 0 and not spec.window:
            meta.shared = f.shared
        of_cache = (rows, _padded(spec.head_dim), cache.element_size())
        if meta.shared is None and (direct := self._tune.direct_config(*of_cache)) is not None:
            meta.direct = direct
            if f.bounds.max_query == 1:
                meta.entering = self._tune.entry_config(rows, f.bounds.max_context, *of_cache[1:])
            return
        meta.config = config = self._tune.decode_config(*of_cache)
        meta.programs = self._decode.programs_for(config, spec.kv_heads, _processors(cache.device))
        meta.items = self._work.make_work(
            inputs.lengths,
            f.row_start,
            meta.owners,
            meta.shared,
            programs=meta.programs,
            block=config.block,
            page=cache.shape[3],
            window=spec.window,
            extra=config.extra,
            least=config.least,
        )

    def enter(
        self, qkv: Tensor, angles: Tensor, heads: Heads, cache: Tensor, meta: TritonMeta, layer: AttnLayer
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        assert meta.inputs is not None
        if meta.entering is not None and _entered_later(qkv, angles):
            meta.entry = self._entry.Entry(qkv, angles, heads.q_norm, heads.k_norm, heads.eps, heads.heads)
            return qkv, None, None
        k, v = _views(cache)
        q = enter(
            qkv,
            angles,
            heads.q_norm,
            heads.k_norm,
            heads.eps,
            heads.heads,
            heads.kv_heads,
            k,
            v,
            meta.inputs.slots,
            layer.k_scale,
            layer.v_scale,
        )
        if self._whole_prompts(meta, cache, qkv, layer):
            values = qkv[:, (heads.heads + heads.kv_heads) * heads.head_dim :]
            meta.fresh = (self._gather.gather(k, meta.inputs.slots), values)
        return q, None, None

    def _whole_prompts(self, meta: TritonMeta, cache: Tensor, qkv: Tensor, layer: AttnLayer) -> bool:
        """Whether this layer's rows of several tokens can be attended to without the pages."""
        bounds = meta.bounds
        return (
            bounds.fresh
            and self._tune.fresh_config(bounds.max_query) is not None
            and not (layer.softcap or 0 < layer.window < bounds.max_query)
            and cache.dtype == qkv.dtype
            and cache.element_size() == 2
            and meta.spec.head_dim in _WHOLE
            and self._can_whole(cache.device)
        )

    def _can_whole(self, device: torch.device) -> bool:
        return bool(self._launch.gluon_known(device))

    def run(
        self, q: Tensor, k: Tensor | None, v: Tensor | None, cache: Tensor, meta: TritonMeta, layer: AttnLayer
    ) -> Tensor:
        assert meta.inputs is not None
        keys, values = _views(cache)
        if k is not None and v is not None:
            _store(k, keys, meta.inputs.slots, layer.k_scale)
            _store(v, values, meta.inputs.slots, layer.v_scale)
        scales: dict[str, Any] = {
            "scale": layer.scale,
            "softcap": layer.softcap,
            "k_scale": layer.k_scale,
            "v_scale": layer.v_scale,
        }
        if meta.entry is not None:
            return self._enter_few(meta.entry, keys, values, meta, layer.window, scales)
        q = q.contiguous()
        n, heads, d = q.shape
        out = torch.empty((n, heads * d), dtype=q.dtype, device=q.device)
        reads = Reads(q, keys, values, out, layer.window, scales)
        if meta.direct is not None:
            self._few_rows(reads, meta)
        else:
            self._single_tokens(reads, meta)
        whole = meta.fresh is not None
        if meta.fresh is not None:
            from octavo.ops.triton.attention_fresh import fresh  # gluon, which other tritons have otherwise

            config = self._tune.fresh_config(meta.bounds.max_query)
            assert config is not None and meta.row_start is not None
            fresh(q, *meta.fresh, out, meta.inputs.lengths, meta.row_start, config, scale=layer.scale)
            meta.fresh = None  # memory for what follows
        if meta.bounds.max_query > 1 and (meta.bounds.later or not whole):
            self._long_rows(reads, meta, whole)
        return out

    def _single_tokens(self, reads: Reads, meta: TritonMeta) -> None:
        """Rows of one token along the work list."""
        assert meta.inputs is not None and meta.config is not None and meta.items is not None
        assert meta.row_start is not None and meta.owners is not None
        q = reads.q
        self._decode.decode(
            q,
            reads.keys,
            reads.values,
            reads.out,
            meta.inputs.tables,
            meta.row_start,
            meta.items,
            self._space(meta.programs, meta.owners.shape[0], q.shape[1], q.shape[2], q.device),
            meta.config,
            programs=meta.programs,
            prefix=self._shared_prefix(reads, meta),
            **reads.scales,
        )

    def _few_rows(self, reads: Reads, meta: TritonMeta) -> None:
        """The same where rows are so few that every program looks at them all."""
        assert meta.inputs is not None and meta.direct is not None
        assert meta.row_start is not None and meta.owners is not None
        q, rows = reads.q, meta.owners.shape[0]
        programs = self._direct.programs_for(
            meta.direct.per_sm, rows, meta.spec.kv_heads, _processors(q.device)
        )
        self._direct.decode_few(
            q,
            reads.keys,
            reads.values,
            reads.out,
            meta.inputs.tables,
            meta.owners,
            meta.inputs.lengths,
            meta.row_start,
            self._space(programs[1], rows, q.shape[1], q.shape[2], q.device),
            meta.direct,
            programs=programs,
            window=reads.window,
            **reads.scales,
        )

    def _enter_few(
        self,
        entry: Entry,
        keys: Tensor,
        values: Tensor,
        meta: TritonMeta,
        window: int,
        scales: dict[str, Any],
    ) -> Tensor:
        """The same where nothing but such rows is in the step: they enter on the way."""
        assert meta.inputs is not None and meta.entering is not None
        assert meta.owners is not None and meta.row_start is not None
        qkv, rows, spec, config = entry.qkv, meta.owners.shape[0], meta.spec, meta.entering
        programs = self._direct.programs_for(config.per_sm, rows, spec.kv_heads, _processors(qkv.device))
        out = torch.empty((len(qkv), entry.heads * spec.head_dim), dtype=qkv.dtype, device=qkv.device)
        self._entry.enter_few(
            entry,
            keys,
            values,
            out,
            meta.inputs.tables,
            meta.owners,
            meta.inputs.lengths,
            meta.row_start,
            self._space(programs[1], rows, entry.heads, spec.head_dim, qkv.device),
            config,
            programs=programs,
            window=window,
            **scales,
        )
        meta.entry = None
        return out

    def _long_rows(self, reads: Reads, meta: TritonMeta, later: bool) -> None:
        """Rows of several tokens; `later`: only those that began before this step."""
        assert meta.inputs is not None and meta.owners is not None and meta.row_start is not None
        q, keys = reads.q, reads.keys
        n, heads, d = q.shape
        group = heads // meta.spec.kv_heads
        bounds, size = meta.bounds, 4 if q.element_size() == 4 else keys.element_size()
        self._prefill.prefill(
            q,
            keys,
            reads.values,
            reads.out,
            meta.inputs.tables,
            meta.owners,
            meta.inputs.lengths,
            meta.row_start,
            self._tune.prefill_config(n, bounds.max_context, _padded(d), group, size),
            tokens=n,
            window=reads.window,
            later=later,
            **reads.scales,
        )

    def _shared_prefix(self, reads: Reads, meta: TritonMeta) -> Prefix | None:
        if meta.shared is None:
            return None
        assert meta.inputs is not None and meta.owners is not None and meta.row_start is not None
        q = reads.q
        heads, d = q.shape[1:]
        kv_heads = meta.spec.kv_heads
        config = self._tune.prefix_config(
            meta.owners.shape[0],
            _padded(d),
            heads // kv_heads,
            kv_heads,
            q.element_size(),
            _processors(q.device),
        )
        return self._prefix.shared_prefix(
            q,
            reads.keys,
            reads.values,
            meta.inputs.tables,
            meta.owners,
            meta.row_start,
            meta.shared,
            config,
            **reads.scales,
        )

    def _space(self, programs: int, rows: int, heads: int, d: int, device: torch.device) -> Workspace:
        key = (programs, max(self._rows, rows), heads, d)
        if key not in self._spaces:
            self._spaces[key] = self._decode.Workspace.make(*key, device)
        return self._spaces[key]

    def _in_order(self, rows: int, device: torch.device) -> Tensor:
        """Where tables are row by row, row r's is number r."""
        if (device, rows) not in self._order:
            self._order[device, rows] = torch.arange(rows, dtype=torch.int32, device=device)
        return self._order[device, rows]


def _views(cache: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values as [pages, page, kv_heads, head_dim]."""
    return cache[:, :, 0].transpose(1, 2), cache[:, :, 1].transpose(1, 2)


def _store(values: Tensor, cache: Tensor, slots: Tensor, scale: float) -> None:
    page = cache.shape[1]
    if cache.element_size() == 1:
        values = (values.float() / scale).clamp(-LARGEST, LARGEST)
    cache[slots // page, slots % page] = values.to(cache.dtype)


def _entered_later(qkv: Tensor, angles: Tensor) -> bool:
    """Whether the kernel that enters and attends reads these."""
    return qkv.numel() > 0 and qkv.is_contiguous() and angles.is_contiguous()


def _padded(d: int) -> int:
    return 1 << (d - 1).bit_length()


def _processors(device: torch.device) -> int:
    """Multiprocessors; in the interpreter a few, so that rows are cut."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8
