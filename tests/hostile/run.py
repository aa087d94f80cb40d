"""`python -m tests.hostile.run 10000`: many broken model files over all cores, and what became of them.

--native-flags: on a library compiled with these flags (sanitizers), which then watches over memory
instead of a limit.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from octavo.config import env
from octavo.ops.cpu.build import library
from octavo.ops.cpu.lib import Library
from octavo.runner import native
from tests.hostile.loading import ROOM, hold_to, run_seeds

BATCH = 25


def begin(made: Path | None) -> None:
    """A worker's first act."""
    if made is None:
        hold_to(ROOM)
    else:
        native.find_library = lambda: Library(made)  # type: ignore[assignment]


def run_batch(first: int, count: int) -> Counter[str]:
    with tempfile.TemporaryDirectory() as folder:
        return run_seeds(first, count, Path(folder))


def run_many(count: int, first: int = 0, workers: int | None = None, flags: str = "") -> Counter[str]:
    """Sums of outcomes. AssertionError names a seed that ended otherwise, or seeds that ended a process."""
    total = Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        made = library(Path(folder), extra=flags.split()) if flags else None
        with ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=begin, initargs=(made,)
        ) as pool:
            starts = range(first, first + count, BATCH)
            jobs = {pool.submit(run_batch, s, min(BATCH, first + count - s)): s for s in starts}
            for job in as_completed(jobs):
                try:
                    total += job.result()
                except BrokenProcessPool as error:
                    raise AssertionError(f"a process ended, perhaps in seed {jobs[job]} and on") from error
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=10000)
    parser.add_argument("first", type=int, nargs="?", default=0)
    parser.add_argument("--native-flags", default="")
    asked = parser.parse_args()
    env.calm_threads()  # the workers': many of them wait for each other
    began = time.perf_counter()
    for name, value in sorted(run_many(asked.count, asked.first, flags=asked.native_flags).items()):
        print(f"{name:28} {value}")
    print(f"{asked.count} broken files in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
