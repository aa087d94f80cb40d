"""Draft trees with static parents: compacted on the device, the scheduler sees a chain."""

from __future__ import annotations

import pytest

from tests.contract.device.cases import FULL, STATE, WINDOW, requests, run_of


@pytest.mark.parametrize("parents", [(-1, -1), (-1, -1, 0, 0), (-1, 0, -1, 2, 1)])
@pytest.mark.parametrize("groups", [(FULL,), (FULL, WINDOW, STATE)], ids=["full", "mixed"])
def test_trees(parents: tuple[int, ...], groups: tuple) -> None:  # type: ignore[type-arg]
    run = run_of(requests(8, output=60, eos=()), parents=parents, groups=groups, pages=2000, depth=2)
    counts = run.go()
    assert counts["several"] > 0 and counts["overlapped"] > 0
    assert counts["accepted"] > 0


def test_the_second_branch_is_accepted_too() -> None:
    """Some tokens must have come from a node that is not the first child."""
    run = run_of(requests(8, output=60, eos=()), parents=(-1, -1), depth=2)
    run.go()
    assert run.runner.later_branches > 0
