"""Small workloads for the device contract, and every way to run a device."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from octavo.core.facts import CacheGroup
from octavo.core.request import EngineRequest, GrammarSpec, Sampling
from octavo.executor import direct as executor_here
from octavo.executor.inline import InlineExecutor
from octavo.executor.process import ProcessExecutor
from octavo.scheduler.state import Limits
from tests.fakes import VOCAB, DirectExecutor, FakeRunner, PipelineExecutor, Shape, plan_of, runner_factory
from tests.fuzz.case import Case, Run

FULL = CacheGroup("full", "full", 4)
WINDOW = CacheGroup("window", "window", 4, window=10)
STATE = CacheGroup("state", "state", 8, publish="applied")


def requests(
    count: int, *, prompt: int = 12, output: int = 20, grammar: bool = False, seed: int = 0, **sampling: Any
) -> list[EngineRequest]:
    """Different prompts of about that length."""
    rng = random.Random(seed)
    return [
        EngineRequest(
            id=str(i),
            tokens=tuple(rng.randrange(VOCAB) for _ in range(prompt + i % 5)),
            seed=rng.randrange(1 << 30),
            sampling=Sampling(**{"max_tokens": output, "eos": (5,), **sampling}),
            grammar=GrammarSpec("fake", str(i % 3)) if grammar else None,
        )
        for i in range(count)
    ]


def run_of(
    asked: list[EngineRequest],
    *,
    groups: tuple[CacheGroup, ...] = (FULL,),
    pages: int = 400,
    rows: int = 8,
    budget: int = 32,
    depth: int = 2,
    drafts: int = 0,
    parents: tuple[int, ...] = (),
    stages: int = 1,
    lazy: bool = False,
    kill_at: int = -1,
    make_executor: Callable[[], Any] | None = None,
    **limits: Any,
) -> Run:
    """A run of these requests, all there from the start; `go` compares the answers."""
    drafts = len(parents) or drafts
    cache = plan_of(*groups, pages=pages, rows=rows)
    shape = Shape(cache, drafts, parents, 4096, stages > 1)
    sizes = Limits(rows, budget, 4096, depth, drafts, stages=stages, model_key="fake", **limits)
    return Run(Case(0, sizes, shape, [(0, r) for r in asked], [], lazy, kill_at), make_executor=make_executor)


class Executors:
    """Makes every executor over the same fake device; closes what it made."""

    NAMES = ("direct", "here", "inline", "process", "pipeline")

    def __init__(self, name: str, groups: tuple[CacheGroup, ...], drafts: int, pages: int = 400) -> None:
        self.name = name
        self.config = {
            "groups": [list(g) for g in groups],
            "pages": pages,
            "rows": 8,
            "drafts": drafts,
            "polls": 3,
        }
        self.made: list[Any] = []

    def __call__(self) -> Any:
        if self.name == "direct":
            return DirectExecutor(self._runner())
        if self.name == "pipeline":
            return PipelineExecutor(self._runner(), 2)
        executor: Any
        if self.name == "inline":
            executor = InlineExecutor(self._runner)
        elif self.name == "here":
            executor = executor_here.DirectExecutor(self._runner)
        else:
            executor = ProcessExecutor("tests.fakes:runner_factory", self.config)
        self.made.append(executor)
        executor.start(lambda stage, share: None)
        return executor

    def _runner(self) -> FakeRunner:
        return runner_factory(self.config)

    def close(self) -> None:
        for executor in self.made:
            executor.close()
