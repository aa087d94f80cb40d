"""Native attention over a KV cache in each dtype: CPU time of one layer's step, on one thread.

`python bench/cpu_attention.py [--level NAME] [--case ROWS:CONTEXT:NEW]... [--out FILE]` prints JSON.
Each of LAYERS layers has a cache of its own, as in a model, so that what does not fit the CPU's
caches comes from memory. Dtypes take turns; a figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from bench.record import provenance, spread, write
from octavo.ops.cpu.find import find_library
from octavo.ops.cpu.lib import Engine
from octavo.ops.cpu.program import Heads, Program, cache_width

LAYERS, PAGE, PIECE = 30, 16, 256
DTYPES = (torch.float32, torch.bfloat16, torch.int8)
CASES = ("1:128:1", "1:512:1", "1:2048:1", "1:8192:1", "16:128:1", "16:1000:1", "1:512:512")


class Group(NamedTuple):
    lengths: Tensor
    tables: Tensor


class Step(NamedTuple):
    """As ops.cpu.program.Inputs."""

    tokens: Tensor
    positions: Tensor
    row_start: Tensor
    groups: tuple[Group, ...]
    caches: dict[str, Tensor]


class Layers:
    """Rows of equal length over caches filled with random keys and values."""

    def __init__(self, engine: Engine, dtype: torch.dtype, rows: int, context: int) -> None:
        self.rows, self.width = rows, (9 + 2 * 3) * 64  # as SmolLM2-135M
        heads = Heads(9, 3, 64, PAGE, dtype, 64**-0.5)
        pages = -(-context // PAGE)
        self.tables = (torch.randperm(rows * pages) + 1).int().view(rows, pages)
        shape = (rows * pages + 1, 2, 3, PAGE, cache_width(dtype, 64))
        self.caches = {str(i): torch.zeros(shape, dtype=dtype) for i in range(LAYERS)}
        self.program = Program(engine, (self.width, 9 * 64))
        for name in self.caches:
            self.program.attention(name, 0, 1, heads)

    def step(self, start: int, count: int) -> Callable[[], None]:
        """What computes positions [start, start + count) of every row."""
        n = self.rows * count
        f = Step(
            torch.zeros(n, dtype=torch.int64),
            torch.arange(start, start + count).repeat(self.rows),
            torch.arange(0, n + 1, count, dtype=torch.int32),
            (Group(torch.full((self.rows,), start + count, dtype=torch.int32), self.tables),),
            self.caches,
        )
        outside = {0: torch.randn(n, self.width), 1: torch.empty(n, 9 * 64)}
        return lambda: self.program.run(n, outside, f)

    def fill(self, length: int) -> None:
        for start in range(0, length, PIECE):
            self.step(start, min(PIECE, length - start))()


def measure(engine: Engine, case: str, rounds: int) -> dict[str, Any]:
    rows, context, new = map(int, case.split(":"))
    taken: dict[str, list[float]] = {}
    calls: dict[str, Callable[[], None]] = {}
    for dtype in DTYPES:
        layers = Layers(engine, dtype, rows, context)
        layers.fill(context - new)
        calls[str(dtype)[6:]] = layers.step(context - new, new)
    for _ in range(rounds):
        for name, call in calls.items():
            call()  # the last dtype's caches leave the CPU's
            began = time.thread_time()
            call()
            taken.setdefault(name, []).append((time.thread_time() - began) / LAYERS)
    seconds = {name: spread(found) for name, found in taken.items()}
    return {"rows": rows, "context": context, "new": new, "seconds_a_layer": seconds}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--level")
    parser.add_argument("--case", action="append")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    library = find_library()
    if isinstance(library, str):
        sys.exit(f"no native library: {library}")
    engine = Engine(library, 1, asked.level)
    results = [measure(engine, case, asked.rounds) for case in asked.case or CASES]
    found = {**provenance(), "level": engine.level, "layers": LAYERS, "attention": results}
    print(json.dumps(found, indent=1))
    if asked.out:
        write(asked.out, found)


if __name__ == "__main__":
    main()
