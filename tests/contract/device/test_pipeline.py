"""A pipeline of four stages: rows wait for their own token, chunks do not, and no stage idles."""

from __future__ import annotations

from octavo.core.messages import unpack_work
from octavo.scheduler.state import Limits
from tests.contract.device.cases import requests, run_of
from tests.fakes import PipelineExecutor

STAGES = 4


def share_of_busy_ticks(run: object) -> float:
    executor = run.executor  # type: ignore[attr-defined]
    assert isinstance(executor, PipelineExecutor)
    return executor.busy / (executor.ticks * STAGES)


def test_stages_are_busy_while_decoding() -> None:
    run = run_of(
        requests(64, prompt=4, output=100, eos=()),
        rows=64,
        budget=512,
        pages=4000,
        stages=STAGES,
        depth=STAGES + 1,
    )
    run.go()
    assert share_of_busy_ticks(run) >= 0.9


def test_chunks_of_one_prompt_follow_each_other() -> None:
    """Only an unknown sample holds a row back: a long prompt fills the pipeline by itself."""
    asked = requests(1, prompt=800, output=1)
    run = run_of(asked, budget=16, pages=400, stages=STAGES, depth=STAGES + 1)
    run.go()
    assert isinstance(run.executor, PipelineExecutor)
    assert run.executor.ticks <= 800 / 16 + STAGES + 2


def test_rows_are_shared_out_and_tokens_are_fed() -> None:
    run = run_of(
        requests(20, output=10, eos=()), rows=20, budget=512, pages=4000, stages=STAGES, depth=STAGES + 1
    )
    limits: Limits = run.case.limits
    most, fed = 0, 0
    plan_once = run.checked.plan

    def plan():  # type: ignore[no-untyped-def]
        nonlocal most, fed
        made = plan_once()
        if made is not None and not made.same:
            most = max(most, sum(1 for _ in unpack_work(made.work)))
            fed += len(made.feed)
        return made

    run.checked.plan = plan  # type: ignore[method-assign]
    run.go()
    assert most <= -(-20 // limits.depth) and fed > 0
