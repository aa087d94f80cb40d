"""Which graphs are kept; what they hold is made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from octavo.runner.cuda.graphs import Graphs, buckets, most_graphs


class Recorded:
    def __init__(self, launch: Callable[[], object]) -> None:
        self.replay = launch


def graphs(most: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Graphs, list[str]]:
    """And what it does, in words."""
    made, did = Graphs(torch.device("cpu"), most=most, eager=True), []

    def record(launch: Callable[[], Any]) -> Recorded:
        did.append("record")
        return Recorded(launch)

    monkeypatch.setattr(made, "_record", record)
    made.off = False
    return made, did


def test_launched_then_recorded_then_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    made, did = graphs(2, monkeypatch)
    for _ in range(3):
        made.run("a", lambda: did.append("launch"))
        assert made.count == 1
    assert did == ["launch", "record", "launch", "launch"], "no step waits for its recording"
    made.clear()
    assert made.count == 0


def test_the_one_not_used_for_longest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    made, did = graphs(2, monkeypatch)

    def run(*keys: str) -> int:
        """Graphs that were recorded."""
        did.clear()
        for key in keys:
            made.run(key, lambda: did.append("launch"))
        assert did.count("launch") == len(keys), "each is launched once, one way or the other"
        return did.count("record")

    assert run("a", "a", "b", "b", "a") == 2
    assert run("c", "c") == 1 and made.count == 2
    assert run("a") == 0, "it was used after b"
    assert run("b") == 1 and made.count == 2
    assert run("c") == 1 and run("b", "c") == 0


def test_without_memory_for_a_graph_the_step_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    made, did = graphs(2, monkeypatch)

    def record(launch: Any) -> Any:
        raise torch.OutOfMemoryError("nothing left")

    monkeypatch.setattr(made, "_record", record)
    for _ in range(3):
        made.run("a", lambda: did.append("launch"))
    assert did == ["launch"] * 3 and made.count == 0


@pytest.mark.parametrize("rows", [1, 8, 64, 256, 1024])
def test_what_is_captured_at_start_is_kept(rows: int) -> None:
    assert 2 * len(buckets(rows)) < most_graphs(rows) <= 4 * rows
