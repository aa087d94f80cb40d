"""Copies in flight: their pages are busy until acknowledged; plans go on meanwhile."""

from __future__ import annotations

from octavo.core.request import EngineRequest, Sampling
from tests.contract.device.cases import requests, run_of


def family(children: int, prompt: int = 10) -> list[EngineRequest]:
    first = requests(1, prompt=prompt, output=12)[0]
    return [first] + [
        EngineRequest(
            id=f"0.{i}",
            tokens=first.tokens,
            seed=77 + i,
            parent=("0", i),
            sampling=Sampling(temperature=1.0, max_tokens=12),
        )
        for i in range(1, children + 1)
    ]


def test_children_share_full_pages_and_copy_the_last() -> None:
    run = run_of(family(4), prefix_caching=False, rows=8, depth=2)
    counts = run.go()
    assert counts["forks"] == 4 and counts["copies"] == 4
    assert run.scheduler.stats().prompt_tokens == 10 + 4, "each child computes the prompt's last token only"
    assert len({tuple(h.tokens) for h in run.heard.values()}) > 1


def test_a_prompt_that_ends_with_a_page_needs_no_copy() -> None:
    counts = run_of(family(3, prompt=9), depth=1).go()  # the last token opens a page of 4
    assert counts["forks"] == 3 and counts["copies"] == 0


def test_pages_are_busy_until_acknowledged() -> None:
    """Rows end at once, copies do not: their pages are not free before the device says so."""
    run = run_of(family(2), depth=1)
    scheduler, runner = run.scheduler, run.runner
    runner.withhold = True
    for _, request in run.case.arrivals:
        scheduler.add(request)
    while not scheduler.stats().copies:
        run.loop.turn()
    run.loop.turn()
    scheduler.abort([r.id for _, r in run.case.arrivals])
    assert len(runner.copying) == 2
    held = {page for copy in runner.copying.values() for page in (copy.src, copy.dst)}
    assert scheduler.stats().blocks_used == len(held) > 0
    assert scheduler.busy, "an acknowledgement is due"
    runner.withhold = False
    while scheduler.busy:
        run.loop.turn()
    assert scheduler.stats().blocks_used == 0 and not runner.copying


def test_a_child_outlives_its_parent() -> None:
    """The parent is aborted while its children wait: they are ordinary requests then."""
    run = run_of(family(2), depth=2)
    run.case.aborts.append((0, "0"))
    counts = run.go()
    assert counts["aborted"] == 1 and counts["forks"] == 0
