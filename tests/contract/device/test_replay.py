"""The core dies at any step; what is open is replayed and ends with the same tokens."""

from __future__ import annotations

import pytest

from tests.contract.device.cases import FULL, STATE, WINDOW, requests, run_of
from tests.contract.device.test_copies import family


@pytest.mark.parametrize("kill_at", range(1, 31, 3))
def test_killed_and_replayed(kill_at: int) -> None:
    asked = requests(8, output=30, grammar=True, temperature=1.0, presence_penalty=0.5, min_tokens=4)
    run = run_of(asked, drafts=2, depth=2, groups=(FULL, WINDOW, STATE), pages=900, kill_at=kill_at)
    assert run.go()["kills"] == 1


@pytest.mark.parametrize("kill_at", range(1, 12, 2))
def test_children_are_replayed_too(kill_at: int) -> None:
    assert run_of(family(3), depth=2, kill_at=kill_at).go()["kills"] == 1
