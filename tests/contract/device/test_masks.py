"""Grammar masks with drafts and two plans in flight, on every executor."""

from __future__ import annotations

import pytest

from tests.contract.device.cases import FULL, STATE, Executors, requests, run_of


@pytest.mark.parametrize("name", Executors.NAMES)
def test_masked_rows_with_drafts_at_depth_two(name: str) -> None:
    executors = Executors(name, (FULL,), drafts=3)
    mixed = requests(6, grammar=True) + [
        r for r in requests(12, seed=1) if int(r.id) >= 6
    ]  # some rows without a grammar in the same plans
    try:
        run = run_of(mixed, drafts=3, depth=2, make_executor=executors)
        counts = run.go()
    finally:
        executors.close()
    assert counts["masked"] > 0 and counts["overlapped"] > 0 and counts["drafts"] > 0


@pytest.mark.parametrize("depth", [1, 3])
def test_masks_at_other_depths(depth: int) -> None:
    counts = run_of(requests(6, grammar=True), drafts=2, depth=depth, groups=(FULL, STATE)).go()
    assert counts["masked"] > 0 and counts["accepted"] > 0


def test_masks_follow_the_draft_tree() -> None:
    counts = run_of(requests(6, grammar=True, output=40), parents=(-1, -1, 0), depth=2).go()
    assert counts["masked"] > 0 and counts["accepted"] > 0
