"""The memory plan: an exact table made from header facts, before anything is loaded.

What does not fit is refused here, with the flag and a value that would. Knows no tensors.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from octavo.config.resolve import Resolved
from octavo.core.errors import UserError
from octavo.core.facts import Decision, MemoryRow, Platform

_GIB = 1 << 30
_CPU_KV = 2 * _GIB  # a laptop's default, unless one long request needs more
_HEADROOM = 192 << 20  # interpreter and libraries beyond what they use already, loading buffers


class Costs(NamedTuple):
    """What the model needs, in bytes unless said otherwise."""

    weights: int
    page: int  # of the KV cache, all layers
    groups: int  # cache groups a request draws pages for
    layers: int
    hidden: int  # elements
    widest: int  # elements
    vocab: int  # elements
    itemsize: int  # of activations
    slots: int


class MemoryPlan(NamedTuple):
    pages: int  # the null page included
    max_model_len: int
    rows: tuple[MemoryRow, ...]
    decisions: tuple[Decision, ...]


def plan_memory(
    r: Resolved, costs: Costs, platform: Platform, measured: tuple[MemoryRow, ...] | None = None
) -> MemoryPlan:
    """UserError, naming a flag and a value that works, where the plan cannot fit.

    `measured` replaces the estimate of everything but the cache.
    """
    return _Planner(r, costs, platform, measured).plan()


class _Planner:
    def __init__(
        self, r: Resolved, costs: Costs, platform: Platform, measured: tuple[MemoryRow, ...] | None
    ) -> None:
        self.r, self.costs, self.platform = r, costs, platform
        self.fixed = measured or _fixed_rows(r, costs)
        self.base = sum(row.nbytes for row in self.fixed)
        self.exact = r.cache.kv_cache_memory_bytes is not None or r.cache.num_gpu_blocks_override is not None
        share = int(r.cache.gpu_memory_utilization * platform.memory_total)
        self.limit = platform.memory_free if self.exact else min(share, platform.memory_free)

    def plan(self) -> MemoryPlan:
        room = self.pages_for(self.limit - self.base)
        length, decisions = self.r.max_model_len, []
        if self.exact:
            pages, note = self.exact_pages(room), "as given"
        else:
            if room < 2:
                raise self.too_large(self.need(min(length, self.r.block_size)))
            pages, note = self.auto_pages(room)
        if pages < self.need(length):
            shorter = self.longest(pages)
            if self.r.fixed_len or shorter < 1:
                raise self.too_long(pages, shorter, room)
            decisions.append(Decision("max_model_len", str(shorter), f"what {pages - 1} KV blocks hold"))
            length = shorter
        tokens = (pages - 1) // self.costs.groups * self.r.block_size
        held = f"{pages - 1} blocks, {tokens} tokens in {self.r.kv_dtype}, {note}"
        cache = MemoryRow("KV cache", pages * self.costs.page, held)
        rows = (*self.fixed, cache)
        return MemoryPlan(pages, length, (*rows, *self.summary(rows)), tuple(decisions))

    def pages_for(self, nbytes: int) -> int:
        """Pages that fit; each costs its cache and its share of what attention gathers of it."""
        return max(0, nbytes) // (self.costs.page + self.scratch)

    @property
    def scratch(self) -> int:
        if self.platform.kind != "cpu":
            return 0  # kernels read the cache where it is
        return 2 * -(-self.costs.page // max(1, self.costs.layers))

    def need(self, length: int) -> int:
        """Pages for one request of `length` tokens, and the null page."""
        return 1 + self.costs.groups * -(-length // self.r.block_size)

    def longest(self, pages: int) -> int:
        return max(0, pages - 1) // self.costs.groups * self.r.block_size

    def auto_pages(self, room: int) -> tuple[int, str]:
        most = 1 + self.r.max_num_seqs * (self.need(self.r.max_model_len) - 1)
        if self.platform.kind != "cpu":
            return min(most, room), "all that fits"
        wanted = min(most, max(self.need(self.r.max_model_len), _CPU_KV // self.costs.page))
        return min(wanted, room), "auto" if wanted <= room else "all that fits"

    def exact_pages(self, room: int) -> int:
        cache = self.r.cache
        if cache.num_gpu_blocks_override is not None:
            pages = cache.num_gpu_blocks_override + 1
            flag, best = "--num-gpu-blocks-override", room - 1
        else:
            pages = (cache.kv_cache_memory_bytes or 0) // self.costs.page
            flag, best = "--kv-cache-memory-bytes", room * self.costs.page
        if room < 2:
            raise self.too_large(self.need(1))
        if pages < 2:
            raise UserError(
                f"a KV cache of {cache.kv_cache_memory_bytes} bytes holds not even one block",
                hint=f"use {flag} {2 * self.costs.page} or more",
                field="kv_cache_memory_bytes",
            )
        if pages > room:
            free, other = _size(self.platform.memory_free), _size(self.base)
            raise UserError(
                f"a KV cache of {_size(pages * self.costs.page)} does not fit: {free} are free, "
                f"{other} of them are needed for everything else",
                hint=f"use {flag} {best} or less",
                field=flag[2:].replace("-", "_"),
            )
        return pages

    def too_large(self, pages: int) -> UserError:
        """Even the smallest cache does not fit beside the weights."""
        need = self.base + pages * (self.costs.page + self.scratch)
        free, total = self.platform.memory_free, self.platform.memory_total
        what = f"this model needs {_size(need)} ({_size(self.costs.weights)} of weights)"
        if not self.exact and (share := self.share_for(pages)) is not None:
            return UserError(
                f"{what}, but {self.r.cache.gpu_memory_utilization} of {_size(total)} is {_size(self.limit)}",
                hint=f"use --gpu-memory-utilization {share:.2f} or more",
                field="gpu_memory_utilization",
            )
        field, remedy = self.smaller(need - free)
        return UserError(f"{what}, but {_size(free)} are free", hint=remedy, field=field)

    def smaller(self, excess: int) -> tuple[str, str]:
        """Which setting would save `excess` bytes, and how."""
        for field, name in (("max_num_batched_tokens", "budget"), ("max_num_seqs", "max_num_seqs")):
            if (value := self.lower(excess, name)) is not None:
                return field, f"use --{field.replace('_', '-')} {value} or less"
        if self.r.dtype == "float32" and self.costs.weights // 2 >= excess:
            return "dtype", "use --dtype bfloat16, which halves the weights"
        return "model", f"free {_size(excess)} of memory or use a smaller model"

    def lower(self, excess: int, name: str) -> int | None:
        """The largest value of a setting with which `excess` bytes less are needed."""

        def enough(value: int) -> bool:
            changed: dict[str, Any] = {name: value}
            rows = _fixed_rows(dataclasses.replace(self.r, **changed), self.costs)
            return self.base - sum(row.nbytes for row in rows) >= excess

        return _largest(1, vars(self.r)[name], enough)

    def too_long(self, pages: int, shorter: int, room: int) -> UserError:
        """The cache is there, but too small for one request of the length asked for."""
        need = self.need(self.r.max_model_len)
        remedies = [f"--max-model-len {shorter} or less"] if shorter else []
        if need <= room and self.r.cache.num_gpu_blocks_override is not None:
            remedies.append(f"--num-gpu-blocks-override {need - 1} or more")
        elif need <= room:
            remedies.append(f"--kv-cache-memory-bytes {need * self.costs.page} or more")
        elif not self.exact and (share := self.share_for(need)) is not None:
            remedies.append(f"--gpu-memory-utilization {share:.2f} or more")
        return UserError(
            f"one request of max_model_len {self.r.max_model_len} needs {need - 1} KV blocks "
            f"({_size(need * self.costs.page)}), there is room for {pages - 1}",
            hint="use " + " or ".join(remedies),
            field="max_model_len",
        )

    def share_for(self, pages: int) -> float | None:
        need = self.base + pages * (self.costs.page + self.scratch)
        share = math.ceil(100 * need / self.platform.memory_total) / 100
        return share if share <= 1 and need <= self.platform.memory_free else None

    def summary(self, rows: tuple[MemoryRow, ...]) -> tuple[MemoryRow, ...]:
        total = sum(row.nbytes for row in rows)
        allowed = f"of {_size(self.limit)} allowed"
        if not self.scratch:
            return (MemoryRow("total", total, allowed),)
        pages = rows[-1].nbytes // self.costs.page
        gathered = MemoryRow("attention scratch", pages * self.scratch, "one layer of the cache, gathered")
        return gathered, MemoryRow("total", total + gathered.nbytes, allowed)


def _fixed_rows(r: Resolved, costs: Costs) -> tuple[MemoryRow, ...]:
    """Everything that does not grow with the cache."""
    activations = r.budget * (6 * costs.hidden + 3 * costs.widest) * costs.itemsize
    scored = max(r.max_num_seqs, min(512, (1 << 23) // costs.vocab + 1))
    return (
        MemoryRow("weights", costs.weights, r.dtype),
        MemoryRow("activations", activations, f"{r.budget} tokens in a step"),
        MemoryRow("logits", scored * costs.vocab * 4 * 4, f"{scored} rows, with room to sample"),
        MemoryRow("slots", costs.slots, f"{r.max_num_seqs} rows"),
        MemoryRow("headroom", _HEADROOM + costs.weights // 50, "libraries, loading"),
    )


def _largest(low: int, high: int, good: Callable[[int], bool]) -> int | None:
    """The largest value in [low, high) that is good; good values are the low ones."""
    if low >= high or not good(low):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low


def _size(nbytes: int) -> str:
    return f"{nbytes / _GIB:.2f} GiB" if nbytes >= _GIB // 10 else f"{nbytes / (1 << 20):.1f} MiB"
