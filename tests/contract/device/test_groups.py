"""Full, windowed and recurrent layers side by side, all out of one pool of pages."""

from __future__ import annotations

import pytest

from octavo.core.facts import CacheGroup
from tests.contract.device.cases import FULL, STATE, WINDOW, requests, run_of

MIXES = [(WINDOW,), (STATE,), (FULL, WINDOW), (FULL, STATE), (FULL, WINDOW, STATE)]


@pytest.mark.parametrize("groups", MIXES, ids=lambda groups: "+".join(g.kind for g in groups))
@pytest.mark.parametrize("drafts", [0, 3])
def test_mixed_groups(groups: tuple[CacheGroup, ...], drafts: int) -> None:
    asked = requests(10, prompt=30, output=40)
    turns = [r for r in requests(20, prompt=30, output=40) if int(r.id) >= 10]
    shared = [
        type(r)(id=r.id, tokens=asked[0].tokens + r.tokens, seed=r.seed, sampling=r.sampling) for r in turns
    ]
    run = run_of(asked + shared, groups=groups, drafts=drafts, pages=3000, rows=8, budget=64)
    counts = run.go()
    assert counts["prefix_hits"] > 0
    assert drafts == 0 or counts["accepted"] > 0


def test_a_window_gives_its_pages_back() -> None:
    """A pool that could not hold the whole length serves it, as only the window stays."""
    window = CacheGroup("window", "window", 4, window=8)
    run = run_of(requests(1, prompt=20, output=200, eos=()), groups=(window,), pages=26, budget=4, depth=2)
    run.go()
    assert len(run.heard["0"].tokens) == 200 > 25 * 4


def test_groups_share_one_pool() -> None:
    """Preemption in one group's favour may take pages of every other."""
    run = run_of(
        requests(8, prompt=20, output=40, eos=()), groups=(FULL, WINDOW, STATE), pages=60, drafts=1, budget=32
    )
    assert run.go()["preemptions"] > 0


def test_without_caching_no_snapshot_is_taken() -> None:
    run = run_of(requests(4, prompt=20), groups=(FULL, STATE), prefix_caching=False, drafts=2)
    counts = run.go()
    assert counts["prefix_hits"] == 0
