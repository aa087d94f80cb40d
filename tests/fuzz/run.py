"""`python -m tests.fuzz.run 100000`: many workloads over all cores, with what they exercised."""

from __future__ import annotations

import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.fuzz.case import run_seed

BATCH = 50


def run_batch(first: int, count: int) -> Counter[str]:
    total: Counter[str] = Counter()
    for seed in range(first, first + count):
        try:
            total.update(run_seed(seed))
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    return total


def run_many(count: int, first: int = 0, workers: int | None = None) -> Counter[str]:
    """Sums of what the workloads counted. AssertionError with the seed of the first bad one."""
    total: Counter[str] = Counter()
    starts = range(first, first + count, BATCH)
    if workers == 1:
        for start in starts:
            total.update(run_batch(start, min(BATCH, first + count - start)))
        return total
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        sizes = [min(BATCH, first + count - start) for start in starts]
        for found in pool.map(run_batch, starts, sizes):
            total.update(found)
    return total


if __name__ == "__main__":
    began = time.perf_counter()
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for name, value in sorted(run_many(count, first).items()):
        print(f"{name:12} {value}")
    print(f"{count} seeds in {time.perf_counter() - began:.1f} s")
