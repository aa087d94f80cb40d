"""How much of the KV memory in use holds nothing: the share of reserved positions without a token.

    python -m bench.waste --out bench/results/NAME.json

Requests with lengths drawn around a mean come and go on a device that answers at once; after every
step the pages held are compared with the positions that are computed.
"""

from __future__ import annotations

import argparse
import random
from array import array
from pathlib import Path
from typing import Any

from bench.record import provenance, write
from octavo.core.facts import CacheGroup, CachePlan
from octavo.core.messages import LENGTH, StepResult, Work, unpack_work
from octavo.core.request import EngineRequest, Sampling
from octavo.scheduler.scheduler import Scheduler
from octavo.scheduler.state import Limits

ROWS = 64


class Device:
    """Knows how long each slot is and when it ends; samples token 1."""

    def __init__(self) -> None:
        self.length: dict[int, int] = {}
        self._last: dict[int, int] = {}
        self._table: list[Work] = []

    def step(self, scheduler: Scheduler) -> None:
        plan = scheduler.plan()
        assert plan is not None
        for slot in plan.release:
            self.length.pop(slot, None)
        for a in plan.admit:
            assert a.sampling is not None
            self.length[a.slot] = a.start
            self._last[a.slot] = a.prompt + a.sampling.max_tokens
        if plan.same:
            self._table = [work._replace(start=work.start + work.count) for work in self._table]
        else:
            self._table = list(unpack_work(plan.work))
        ends = [work.start + work.count for work in self._table]
        for work, end in zip(self._table, ends, strict=True):
            self.length[work.slot] = end
        counts = [min(work.logits, 1) for work in self._table]
        finished = bytes(
            LENGTH if n and end + 1 >= self._last[work.slot] else 0
            for work, end, n in zip(self._table, ends, counts, strict=True)
        )
        scheduler.apply(
            StepResult(
                plan_id=plan.id,
                tokens=array("i", [1] * len(ends)).tobytes(),
                counts=array("i", counts).tobytes(),
                finished=finished,
            )
        )


def measure(mean: int, block: int, steps: int = 3000, seed: int = 0) -> dict[str, Any]:
    """The mean share of held positions that no token fills."""
    rng = random.Random(seed)
    cache = CachePlan(page_bytes=1, pages=200_000, groups=(CacheGroup("full", "full", block),), max_rows=ROWS)
    limits = Limits(ROWS, budget=2048, max_model_len=8192, depth=1, prefix_caching=False)
    scheduler, device = Scheduler(cache, limits), Device()
    held = filled = sent = 0
    for step in range(steps):
        while scheduler.stats().waiting < 4:
            total = max(16, int(rng.gauss(mean, mean / 3)))
            prompt = tuple(rng.randrange(32_000) for _ in range(total // 2))
            sampling = Sampling(max_tokens=total - len(prompt))
            scheduler.add(EngineRequest(id=str(sent), tokens=prompt, seed=1, sampling=sampling))
            sent += 1
        running_before = scheduler.stats().running
        device.step(scheduler)
        stats = scheduler.stats()
        if step > steps // 4 and stats.running == running_before:  # nobody left: lengths match the pages
            held += stats.blocks_used * block
            filled += sum(device.length.values())
    return {"mean_length": mean, "block_size": block, "requests": sent, "waste": 1 - filled / held}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = [measure(mean, block) for mean in (256, 512, 1024) for block in (16,)]
    for row in rows:
        workload = f"mean length {row['mean_length']:>5}, block {row['block_size']}"
        print(f"{workload}: {row['waste']:.2%} of the memory in use")
    if args.out:
        write(args.out, {"benchmark": "waste", **provenance(), "rows": rows})


if __name__ == "__main__":
    main()
