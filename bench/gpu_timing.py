"""Times kernels inside CUDA graphs, over inputs that do not fit the cache, and compiles many at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

BEYOND_CACHE = 240 << 20  # several times the L2 of an H100 (50 MB)


def copies_of(nbytes: int, most: int = 48) -> int:
    """Input sets to rotate over, so that none is found in the cache."""
    return max(2, min(most, -(-BEYOND_CACHE // max(nbytes, 1))))


def graph_of(calls: Sequence[Callable[[], Any]], launches: int) -> torch.cuda.CUDAGraph:
    """`launches` launches in one graph, the calls in turn. Each call was made once before."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(launches):
            calls[i % len(calls)]()
    return graph


def microseconds(calls: Sequence[Callable[[], Any]], *, launches: int = 0, rounds: int = 5) -> float:
    """Median time of one call."""
    for call in calls[:2]:
        call()
    torch.cuda.synchronize()
    launches = launches or max(24, len(calls))
    graph = graph_of(calls, launches)
    graph.replay()
    taken = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end) * 1e3 / launches)
    return statistics.median(taken)


def compile_all(work: Callable[[Any], None], jobs: Sequence[Any], workers: int = 12) -> int:
    """Runs work(job) once each in other processes, for what it leaves in the compiler's cache."""
    if len(jobs) < 2:
        return 0
    parts = [(work, jobs[i::workers]) for i in range(workers) if jobs[i::workers]]
    with multiprocessing.get_context("spawn").Pool(len(parts)) as pool:
        return sum(pool.map(_compile_some, parts))


def _compile_some(part: tuple[Callable[[Any], None], Sequence[Any]]) -> int:
    work, jobs = part
    failed = 0
    for job in jobs:
        try:
            work(job)
        except Exception:  # a candidate that does not fit the device is found again when timed
            failed += 1
    torch.cuda.synchronize()
    return failed


def keep(name: str, result: Any) -> None:
    """As JSON in $OUT, where that is set."""
    if folder := os.environ.get("OUT"):
        Path(folder, name).write_text(json.dumps(result, indent=1, default=str))
