"""Random workloads against decoding each request alone; every feature must have taken part."""

from __future__ import annotations

import pytest

from tests.fuzz.run import run_many

SEEDS = 5000
FEATURES = (
    "aborted",
    "accepted",
    "copies",
    "drafts",
    "forks",
    "jumped",
    "kills",
    "masked",
    "overlapped",
    "preemptions",
    "prefix_hits",
    "same",
    "scores",
    "several",
    "staged",
    "trees",
)


@pytest.mark.timeout(900)
def test_fuzz() -> None:
    counts = run_many(SEEDS, workers=2)
    idle = [name for name in FEATURES if counts[name] <= 0]
    assert not idle, f"the workloads never exercised {idle}"
