"""The device knows lengths and ends; the host plans with upper bounds and is corrected."""

from __future__ import annotations

import pytest

from octavo.core.messages import StepPlan
from octavo.core.request import Finish
from tests.contract.device.cases import requests, run_of
from tests.fakes import FakeRunner


class Watched(FakeRunner):
    """Counts how often the host's bound was above the truth, and rows that ran empty."""

    above = empty = 0

    def forward(self, plan: StepPlan) -> None:
        before = {slot: (row.computed, row.done) for slot, row in self.rows.items()}
        super().forward(plan)
        for work in self.table:
            computed, done = before.get(work.slot, (work.start, False))
            self.empty += done
            self.above += not done and work.start > computed


def watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.case.FakeRunner", Watched)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("depth", [2, 3])
def test_bounds_above_the_truth_and_done_rows(
    depth: int, lazy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch(monkeypatch)
    run = run_of(requests(16, eos=(5, 9)), depth=depth, drafts=3, lazy=lazy)
    run.go()
    assert isinstance(run.runner, Watched)
    assert run.runner.above > 0, "no draft was rejected with a plan in flight"
    assert run.runner.empty > 0, "no row ended with a plan in flight"
    assert any(h.last is not None and h.last.finish == Finish.STOP for h in run.heard.values())


def test_at_depth_one_the_bound_is_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    watch(monkeypatch)
    run = run_of(requests(8), depth=1, drafts=3)
    run.go()
    assert isinstance(run.runner, Watched)
    assert run.runner.above == run.runner.empty == 0 < run.runner.several


def test_a_steady_batch_is_planned_by_reference() -> None:
    run = run_of(requests(4, output=40, eos=()), depth=2)
    counts = run.go()
    assert counts["same"] > 30
