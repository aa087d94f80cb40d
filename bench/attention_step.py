"""Steps for the attention kernels on a GPU: rows over a random paged cache, and how they are timed."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch import Tensor

from octavo.ops.triton import attention_direct
from octavo.ops.triton.attention_decode import DecodeConfig, Workspace, decode, programs_for
from octavo.ops.triton.attention_direct import DirectConfig, decode_few
from octavo.ops.triton.attention_prefill import PrefillConfig, prefill
from octavo.ops.triton.attention_prefix import PrefixConfig, shared_prefix
from octavo.ops.triton.attention_work import make_work

BF16 = torch.bfloat16
BANDWIDTH, L2 = 3.05e12, 50 << 20
LLAMA, QWEN = (32, 8), (16, 8)
Rows = Sequence[tuple[int, int]]  # (tokens of this step, context after it)


class Step:
    """Rows over caches of several layers, together more than L2 holds."""

    def __init__(
        self, rows: Rows, shape: tuple[int, int], *, cache: torch.dtype = BF16, shared: int = 0
    ) -> None:
        self.rows, (self.heads, self.kv_heads), self.d, self.page = rows, shape, 128, 16
        d, page = self.d, self.page
        self.tokens = sum(c for c, _ in rows)
        need = [-(-length // page) for _, length in rows]
        pages = 1 + shared + sum(n - shared for n in need)
        self.bytes = (pages - 1) * page * 2 * self.kv_heads * d * cache.itemsize
        self.layers = max(2, min(48, -(-2 * L2 // self.bytes)))
        one = torch.randn(pages, self.kv_heads, 2, page, d, device="cuda", dtype=BF16).to(cache)
        self.caches = [one] + [one.clone() for _ in range(self.layers - 1)]
        order = (torch.randperm(pages - 1) + 1).int()
        tables = torch.zeros(len(rows), max(need), dtype=torch.int32)
        at = shared
        for i, n in enumerate(need):
            tables[i, :shared] = order[:shared]
            tables[i, shared:n] = order[at : at + n - shared]
            at += n - shared
        self.tables = tables.cuda()
        self.owners = torch.arange(len(rows), dtype=torch.int32, device="cuda")
        self.lengths = torch.tensor([n for _, n in rows], dtype=torch.int32, device="cuda")
        starts = torch.tensor([0, *(c for c, _ in rows)]).cumsum(0)
        self.row_start = starts.to("cuda", torch.int32)
        self.shared = torch.tensor([shared], dtype=torch.int32, device="cuda")
        self.q = torch.randn(self.tokens, self.heads, d, device="cuda", dtype=BF16)
        self.out = torch.empty(self.tokens, self.heads * d, device="cuda", dtype=BF16)

    def views(self, layer: int) -> tuple[Tensor, Tensor]:
        cache = self.caches[layer]
        return cache[:, :, 0].transpose(1, 2), cache[:, :, 1].transpose(1, 2)

    def flops(self) -> float:
        """Products of causal attention, halves counted as halves."""
        return sum(4.0 * c * (length - (c - 1) / 2) * self.heads * self.d for c, length in self.rows if c > 1)


def processors() -> int:
    return torch.cuda.get_device_properties(0).multi_processor_count


def workers() -> ProcessPoolExecutor:
    """Processes that share the GPU and fill triton's cache on disk."""
    many = min(12, os.cpu_count() or 1)
    return ProcessPoolExecutor(many, multiprocessing.get_context("spawn"))


def timed(launch: Callable[[int], None], layers: int, launches: int = 24) -> float:
    """Microseconds a launch: a graph of launches over the layers, the best of several replays."""
    launch(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    count = layers * max(1, launches // layers)
    with torch.cuda.graph(graph):
        for i in range(count):
            launch(i % layers)
    graph.replay()
    best = float("inf")
    for _ in range(4):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end) * 1000 / count)
    return best


class Decoder:
    """A step's work list and scratch memory for one configuration."""

    def __init__(self, step: Step, config: DecodeConfig, shared: bool = False) -> None:
        self.step, self.config = step, config
        self.programs = programs_for(config, step.kv_heads, processors())
        self.space = Workspace.make(self.programs, len(step.rows), step.heads, step.d, step.q.device)
        self.work(shared)

    def work(self, shared: bool = False) -> None:
        s, c, programs = self.step, self.config, self.programs
        self.items = make_work(s.lengths, s.row_start, s.owners, s.shared if shared else None, block=c.block,
                               programs=programs, page=s.page, extra=c.extra, least=c.least)  # fmt: skip

    def launch(self, layer: int, prefix: Any = None) -> None:
        s = self.step
        decode(s.q, *s.views(layer), s.out, s.tables, s.row_start, self.items, self.space, self.config,
               programs=self.programs, scale=s.d**-0.5, prefix=prefix)  # fmt: skip


class FewRows(Decoder):
    """As Decoder, for the kernel that needs no work list."""

    def __init__(self, step: Step, few: DirectConfig) -> None:
        self.step, self.few = step, few
        self.cut = attention_direct.programs_for(few.per_sm, len(step.rows), step.kv_heads, processors())
        self.space = Workspace.make(self.cut[1], len(step.rows), step.heads, step.d, step.q.device)

    def launch(self, layer: int, prefix: Any = None) -> None:
        s = self.step
        decode_few(s.q, *s.views(layer), s.out, s.tables, s.owners, s.lengths, s.row_start, self.space,
                   self.few, programs=self.cut, scale=s.d**-0.5)  # fmt: skip


def run_prefill(s: Step, layer: int, config: PrefillConfig) -> None:
    prefill(s.q, *s.views(layer), s.out, s.tables, s.owners, s.lengths, s.row_start, config,
            tokens=s.tokens, scale=s.d**-0.5)  # fmt: skip


def run_prefix(s: Step, layer: int, config: PrefixConfig, after: Decoder) -> None:
    """The shared pages, then the rest of every row."""
    prefix = shared_prefix(s.q, *s.views(layer), s.tables, s.owners, s.row_start, s.shared, config,
                           scale=s.d**-0.5)  # fmt: skip
    after.launch(layer, prefix)


def warm(task: tuple[str, Any, tuple[int, int], torch.dtype]) -> str | None:
    """Compiles a candidate by launching it once; what is wrong with it, if anything."""
    kind, config, shape, cache = task
    step = Step([(1, 300)] if kind in ("decode", "few") else [(1, 300), (40, 300)], shape, cache=cache)
    try:
        if kind == "decode":
            Decoder(step, config).launch(0)
        elif kind == "few":
            FewRows(step, config).launch(0)
        elif kind == "prefill":
            run_prefill(step, 0, config)
        else:
            run_prefix(step, 0, config, Decoder(step, DecodeConfig(), shared=True))
        torch.cuda.synchronize()
    except Exception as error:
        return f"cannot: {kind} {tuple(config)}: {type(error).__name__} {str(error)[:90]}"
    return None
