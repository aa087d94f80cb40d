"""Planted bugs: each must be caught, by the fuzz or by the hit rate."""

from __future__ import annotations

import pytest

from tests.fuzz.case import run_seed
from tests.fuzz.hits import check_hits
from tests.fuzz.mutants import MUTANTS, Mutant, planted

SEEDS = 1500  # of the 5,000; most bugs fall within ten


@pytest.mark.parametrize("mutant", MUTANTS, ids=[m.name for m in MUTANTS])
def test_planted_bug_is_caught(mutant: Mutant) -> None:
    check = check_hits if mutant.by == "hits" else run_seed
    with planted(mutant) as bug:
        for seed in range(SEEDS):
            try:
                check(seed, bug.scheduler, bug.loop)
            except (AssertionError, LookupError):
                return
    pytest.fail(f"nobody noticed: {mutant.name}")


def test_without_a_bug_the_copied_modules_work() -> None:
    """The planting itself breaks nothing."""
    none = Mutant(
        "none",
        "octavo.scheduler.scheduler",
        "self._counters.preemptions += 1",
        "self._counters.preemptions += 1",
    )
    with planted(none) as same:
        for seed in range(30):
            run_seed(seed, same.scheduler, same.loop)
            check_hits(seed, same.scheduler, same.loop)
