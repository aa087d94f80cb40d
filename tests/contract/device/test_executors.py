"""Executors: order of launches, errors, control calls, and what happens when a worker goes away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import Future
from typing import Any

import psutil
import pytest

from octavo.core.errors import EngineDead, Fault
from octavo.core.messages import Admission, StepMasks, StepPlan, StepResult, Work, pack_work
from octavo.core.request import Sampling
from octavo.executor.direct import DirectExecutor
from octavo.executor.inline import InlineExecutor
from octavo.executor.lane import Lane, Step
from octavo.executor.process import ProcessExecutor
from tests.contract.device.cases import FULL, Executors, requests, run_of
from tests.fakes import VOCAB, WORDS, FakeRunner, Shape, plan_of

REAL = ("here", "inline", "process")


def executor_of(name: str, **config: Any) -> DirectExecutor | InlineExecutor | ProcessExecutor:
    executors = Executors(name, (FULL,), drafts=0)
    executors.config.update(config)
    if name != "process":
        return {"here": DirectExecutor, "inline": InlineExecutor}[name](executors._runner)
    return ProcessExecutor("tests.fakes:runner_factory", executors.config)


def plan(number: int, masked: bool = False) -> StepPlan:
    """Step `number` of one row: its prompt, then decodes."""
    a = Admission(
        slot=0, tokens=(1, 2, 3), prompt=3, start=0, seed=1, sampling=Sampling(max_tokens=50), grammar=masked
    )
    if number == 0:
        work = pack_work([Work(0, 0, 3, 0, 1)])
        return StepPlan(id=0, admit=(a,), blocks=((0, 0, 0, (1, 2, 3)),), work=work, masked=masked)
    return StepPlan(id=number, work=pack_work([Work(0, 2 + number, 1, 0, 1)]), masked=masked)


def masks(number: int) -> StepMasks:
    return StepMasks(plan_id=number, rows=((0, 0),), bits=((1 << VOCAB) - 1).to_bytes(4 * WORDS, "little"))


@pytest.mark.parametrize("name", REAL)
def test_start_results_calls_and_close(name: str) -> None:
    executor = executor_of(name)
    stages: list[tuple[str, float]] = []
    ready = executor.start(lambda stage, share: stages.append((stage, share)))
    try:
        assert ready.attention == "lists" and stages == [("loading", 1.0)]
        assert executor.call("echo", {"a": 1}) == [{"a": 1}]
        with pytest.raises(Fault, match="unknown call"):
            executor.call("nonsense", {})
        futures = [executor.submit(plan(n)) for n in range(4)]
        assert [f.result(timeout=20).plan_id for f in futures] == [0, 1, 2, 3]
    finally:
        executor.close()


@pytest.mark.parametrize("name", REAL)
def test_results_come_while_a_mask_is_awaited(name: str) -> None:
    """Plan 1 waits for masks that follow from result 0: it must not hold result 0 back."""
    executor = executor_of(name, polls=5)
    executor.start(lambda stage, share: None)
    try:
        first, second = executor.submit(plan(0)), executor.submit(plan(1, masked=True))
        assert first.result(timeout=20).plan_id == 0
        assert not second.done()
        executor.mask(masks(1))
        assert second.result(timeout=20).plan_id == 1
    finally:
        executor.close()


@pytest.mark.parametrize("name", REAL)
def test_a_broken_step_fails_it_and_every_later_one(name: str) -> None:
    executor = executor_of(name, fail_at=1, polls=0)
    executor.start(lambda stage, share: None)
    try:
        good, bad, later = (executor.submit(plan(n)) for n in range(3))
        assert good.result(timeout=20).plan_id == 0
        for future in (bad, later, executor.submit(plan(3))):
            with pytest.raises(Fault, match="fake device broke"):
                future.result(timeout=20)
    finally:
        executor.close()


@pytest.mark.parametrize("name", REAL)
def test_a_failed_start_is_told(name: str) -> None:
    executor = executor_of(name, groups=[["a group without a kind"]])
    with pytest.raises(Fault, match="TypeError"):
        executor.start(lambda stage, share: None)
    executor.close()


@pytest.mark.parametrize("name", REAL)
def test_closing_fails_what_is_open(name: str) -> None:
    executor = executor_of(name)
    executor.start(lambda stage, share: None)
    gated: Future[StepResult] = executor.submit(plan(0, masked=True))
    executor.close()
    with pytest.raises(Fault):
        gated.result(timeout=20)


def test_a_killed_worker_fails_open_steps() -> None:
    executor = executor_of("process")
    assert isinstance(executor, ProcessExecutor)
    executor.start(lambda stage, share: None)
    gated = executor.submit(plan(0, masked=True))
    os.kill(executor.pid, signal.SIGKILL)
    with pytest.raises(EngineDead):
        gated.result(timeout=20)
    with pytest.raises(EngineDead):
        executor.submit(plan(1)).result(timeout=20)
    executor.close()


def test_a_worker_that_never_starts_is_told() -> None:
    executor = ProcessExecutor("tests.no_such_module:factory", {})
    with pytest.raises(Fault, match="no_such_module"):
        executor.start(lambda stage, share: None)


PARENT = """
import os, signal, sys
from tests.contract.device.test_executors import executor_of, plan
executor = executor_of("process")
executor.start(lambda stage, share: None)
executor.submit(plan(0, masked=True))
print(executor.pid, flush=True)
sys.stdin.read()
"""


def test_a_worker_dies_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdin is not None and parent.stdout is not None
    with parent:
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        worker.wait(timeout=30)
    assert not worker.is_running()


def test_launches_go_ahead_of_waiting_for_results() -> None:
    """Two plans are launched before the first result is there; results keep their order."""
    runner = FakeRunner(Shape(plan_of(FULL)))
    runner.rng.randint = lambda low, high: 3  # type: ignore[method-assign]
    lane, delivered = Lane(runner), []
    for n in range(2):
        lane.submit(Step(plan(n), lambda result: delivered.append(result.plan_id)))
    assert lane.launch() and lane.launch() and not lane.launch()
    assert not lane.deliver() and not delivered
    while lane.flying:
        lane.deliver()
    assert delivered == [0, 1]


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_answers_through_threads_and_processes(name: str, depth: int) -> None:
    executors = Executors(name, (FULL,), drafts=2, pages=40)
    try:
        counts = run_of(
            requests(12, output=30), pages=40, depth=depth, drafts=2, make_executor=executors
        ).go()
    finally:
        executors.close()
    assert counts["preemptions"] > 0 and (counts["overlapped"] > 0) == (depth > 1)
