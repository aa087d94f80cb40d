"""What planning costs, without a device: plan + apply for steady decodes, and plan with a long queue.

`python bench/plan.py [--out FILE]` prints JSON: milliseconds, the median over repeated steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from array import array
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.record import provenance, write
from octavo.core.facts import CacheGroup, CachePlan
from octavo.core.messages import StepPlan, StepResult, unpack_work
from octavo.core.request import EngineRequest, Sampling
from octavo.scheduler.scheduler import Scheduler
from octavo.scheduler.state import Limits

BLOCK = 16
PROMPT = 200
AIMS = {256: 1.0, 1024: 4.0}  # milliseconds


def request(name: str, tokens: tuple[int, ...]) -> EngineRequest:
    return EngineRequest(id=name, tokens=tokens, seed=1, sampling=Sampling(max_tokens=2000))


class Bench:
    """A scheduler and a device that answers every sampling row with one token, in no time."""

    def __init__(self, rows: int, *, drafts: int = 0, window: bool = False, waiting: int = 0) -> None:
        """`rows` requests in the middle of their answers, and `waiting` more that find no slot."""
        groups = [CacheGroup("full", "full", BLOCK)]
        if window:
            groups.append(CacheGroup("window", "window", BLOCK, window=512))
        cache = CachePlan(page_bytes=1, pages=rows * 160 + 4096, groups=tuple(groups), max_rows=rows)
        limits = Limits(rows, budget=max(8192, 4 * rows), max_model_len=4096, depth=1, drafts=drafts)
        self.scheduler = Scheduler(cache, limits)
        self._drafts = drafts
        self._table: list[int] = []  # logits of each row of the last table
        for i in range(rows):
            self.scheduler.add(
                request(str(i), tuple((i * 7919 + n) % 32000 for n in range(PROMPT + i % BLOCK)))
            )
        while self.scheduler.stats().generated_tokens < 20 * rows:
            self.step()
        for i in range(waiting):
            self.scheduler.add(request(f"w{i}", (i % 32000, 2, 3)))

    def step(self) -> tuple[float, float]:
        """Seconds of one plan and of its apply."""
        began = time.perf_counter()
        plan = self.scheduler.plan()
        planned = time.perf_counter() - began
        assert plan is not None
        result = self._answer(plan)
        began = time.perf_counter()
        self.scheduler.apply(result)
        return planned, time.perf_counter() - began

    def _answer(self, plan: StepPlan) -> StepResult:
        if not plan.same:
            self._table = [work.logits for work in unpack_work(plan.work)]
        rows, width = len(self._table), 1 + self._drafts
        counts = array("i", [min(1, logits) for logits in self._table])
        return StepResult(
            plan_id=plan.id,
            tokens=array("i", [17] * (rows * width)).tobytes(),
            counts=counts.tobytes(),
            finished=bytes(rows),
        )


def measure(steps: int, drafts: int = 0, **sizes: Any) -> dict[str, float]:
    bench = Bench(drafts=drafts, **sizes)
    times = [bench.step() for _ in range(steps)]
    both = sorted(1e3 * (p + a) for p, a in times)
    return {
        "plan_ms": round(1e3 * statistics.median(p for p, _ in times), 4),
        "apply_ms": round(1e3 * statistics.median(a for _, a in times), 4),
        "both_ms": round(statistics.median(both), 4),
        "both_min_ms": round(both[0], 4),
    }


def queue_ratio(steps: int, rounds: int) -> dict[str, float]:
    """Plan time with 10,000 waiting over that with 10, measured in turns."""
    short, long = Bench(64, waiting=10), Bench(64, waiting=10_000)
    times: dict[str, list[float]] = {"10": [], "10000": []}
    for _ in range(rounds):
        for name, bench in (("10", short), ("10000", long)):
            times[name] += [bench.step()[0] for _ in range(steps)]
    few, many = (1e3 * statistics.median(times[name]) for name in ("10", "10000"))
    return {"plan_10_ms": round(few, 4), "plan_10000_ms": round(many, 4), "ratio": round(many / few, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for rows in (64, 256, 1024):
        results[f"rows_{rows}"] = measure(options.steps, rows=rows)
    results["rows_256_drafts_3"] = measure(options.steps, 3, rows=256)
    results["rows_256_window"] = measure(options.steps, rows=256, window=True)
    results["queue"] = queue_ratio(options.steps // 4, 8)
    results["aims_ms"] = {f"rows_{rows}": aim for rows, aim in AIMS.items()}
    report = {"bench": "plan", **provenance(), "results": results}
    if options.out:
        write(options.out, report)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
