"""Drives a scheduler step by step, answering its plans by hand."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

from octavo.core.facts import CacheGroup, CachePlan
from octavo.core.messages import StepPlan, StepResult, Work, unpack_work
from octavo.core.request import Delta, EngineRequest, Sampling
from octavo.scheduler.scheduler import Scheduler
from octavo.scheduler.state import Limits

FULL = CacheGroup("full", "full", 4)


def request(name: str, prompt: int = 6, output: int = 8, *, first: int = 0, **fields: Any) -> EngineRequest:
    """A prompt of `prompt` tokens, different from that of any other name unless `first` says so."""
    start = first or 1000 * (1 + sum(map(ord, name)))
    fields.setdefault("sampling", Sampling(max_tokens=output))
    return EngineRequest(id=name, tokens=tuple(range(start, start + prompt)), seed=1, **fields)


def scheduler(
    *groups: CacheGroup,
    pages: int = 100,
    rows: int = 4,
    budget: int = 16,
    depth: int = 1,
    clock: Callable[[], float] = lambda: 1.0,
    guests: Any = (),
    longest: int = 1000,
    **limits: Any,
) -> Scheduler:
    cache = CachePlan(page_bytes=1, pages=pages, groups=groups or (FULL,), max_rows=rows)
    return Scheduler(cache, Limits(rows, budget, longest, depth, **limits), clock=clock, guests=guests)


class Driver:
    """Answers each sampling row with token 7, or with what `say` has for its slot."""

    def __init__(self, made: Scheduler) -> None:
        self.scheduler = made
        self.say: dict[int, tuple[tuple[int, ...], int]] = {}  # slot -> tokens, finished code
        self.plans: list[StepPlan] = []
        self._table: list[Work] = []
        self._tables: dict[int, list[Work]] = {}

    def plan(self) -> StepPlan | None:
        plan = self.scheduler.plan()
        if plan is not None:
            if plan.same:
                self._table = [w._replace(start=w.start + w.count) for w in self._table]
            else:
                self._table = list(unpack_work(plan.work))
            self._tables[plan.id] = self._table
            self.plans.append(plan)
        return plan

    def work(self, plan: StepPlan | None) -> dict[int, Work]:
        """By slot."""
        return {w.slot: w for w in self._tables[plan.id]} if plan is not None else {}

    def apply(self, plan: StepPlan | None, **extra: Any) -> list[Delta]:
        assert plan is not None
        table = self._tables.pop(plan.id)
        width = 1 + max((w.drafts for w in table), default=0)
        tokens, counts, finished = array("i"), array("i"), bytearray()
        for w in table:
            new, code = self.say.pop(w.slot, ((7,), 0)) if w.logits else ((), 0)
            tokens.extend(list(new) + [0] * (width - len(new)))
            counts.append(len(new))
            finished.append(code)
        return self.scheduler.apply(
            StepResult(
                plan_id=plan.id,
                tokens=tokens.tobytes(),
                counts=counts.tobytes(),
                finished=bytes(finished),
                **extra,
            )
        )

    def step(self, **extra: Any) -> list[Delta]:
        return self.apply(self.plan(), **extra)

    def slot(self, name: str) -> int:
        return self.scheduler._requests[name].slot
