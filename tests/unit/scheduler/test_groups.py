"""Which pages a row needs in each kind of group, and the longest prefix they can all serve."""

from __future__ import annotations

import pytest

from octavo.core.facts import CacheGroup, CachePlan
from octavo.core.request import EngineRequest, MediaSpan, Sampling
from octavo.scheduler.groups import KINDS, UNBOUNDED, CacheGroups, FullGroup
from octavo.scheduler.state import Limits, RequestState

LIMITS = Limits(4, 16, 1000, 2, 3, model_key="m")


def group(kind: str, size: int = 4, window: int = 0, limits: Limits = LIMITS) -> FullGroup:
    return KINDS[kind](0, CacheGroup(kind, kind, size, window), limits)


def groups(*specs: CacheGroup, pages: int = 100, limits: Limits = LIMITS) -> CacheGroups:
    return CacheGroups(CachePlan(page_bytes=1, pages=pages, groups=specs, max_rows=4), limits)


def row(tokens: range | tuple[int, ...], limits: Limits = LIMITS, **fields: object) -> RequestState:
    asked = EngineRequest(id="r", tokens=tuple(tokens), seed=0, sampling=Sampling(), **fields)  # type: ignore[arg-type]
    return RequestState.of(asked, limits, 1000, 0, 0.0)


@pytest.mark.parametrize("kind", ["full", "window", "state"])
def test_capacity_is_the_inverse_of_blocks(kind: str) -> None:
    g = group(kind, window=5)
    for blocks in range(1, 6):
        most = g.capacity(blocks)
        assert g.blocks(most) == blocks and g.blocks(most + 1) == blocks + 1


def test_a_window_needs_only_what_the_next_position_sees() -> None:
    g = group("window", window=5)  # position 12 sees 8..12, and 13 sees 9..13
    assert g.need(12) == range(2, 3)
    assert [g.stale(n) for n in (0, 4, 7, 8, 11, 12)] == [0, 0, 0, 1, 1, 2]


def test_a_state_needs_its_last_snapshot_and_keeps_it_until_read() -> None:
    g = group("state")
    assert g.need(0) == range(0) and g.need(8) == range(1, 2)
    assert [g.stale(n) for n in (0, 4, 5, 8, 9)] == [0, 0, 1, 1, 2]
    assert g.fixed(row(range(3)).request) == 4


def test_a_state_without_prefix_caching_takes_no_snapshots() -> None:
    g = group("state", limits=LIMITS._replace(prefix_caching=False))
    assert g.blocks(100) == 0 and g.capacity(0) == UNBOUNDED


def test_cross_pages_follow_the_media() -> None:
    made = groups(CacheGroup("full", "full", 4), CacheGroup("cross", "cross", 4))
    r = row(range(6), media=(MediaSpan(b"h", 0, 10),))
    made.open(r)
    news = made.grow(r, 6)
    assert news is not None and [(g, first, len(ids)) for g, first, ids in news] == [(0, 0, 2), (1, 0, 3)]
    made.close(r)
    assert made.pool.free == made.pool.total


def test_pages_are_taken_all_or_none() -> None:
    made = groups(CacheGroup("full", "full", 4), CacheGroup("state", "state", 8, publish="applied"), pages=8)
    r = row(range(50))
    made.open(r)
    assert made.grow(r, 13) is None and made.pool.free == 7  # 4 + 1 and 4 live states
    assert made.grow(r, 7) is not None and made.pool.free == 1
    assert r.capacity == 7  # the state's first snapshot comes at 8


@pytest.mark.parametrize(
    ("specs", "hit"),
    [
        ((CacheGroup("f", "full", 4),), 36),
        ((CacheGroup("f", "full", 3),), 39),
        ((CacheGroup("w", "window", 4, 9),), 36),
        ((CacheGroup("f", "full", 4), CacheGroup("w", "window", 8, 9)), 32),
        ((CacheGroup("f", "full", 4), CacheGroup("s", "state", 16, publish="applied")), 32),
        ((CacheGroup("f", "full", 2), CacheGroup("w", "window", 3, 4), CacheGroup("s", "state", 4)), 36),
    ],
)
def test_a_hit_is_the_longest_length_every_group_can_serve(specs: tuple[CacheGroup, ...], hit: int) -> None:
    made = groups(*specs)
    first, second = row(range(40)), row(range(40))
    made.open(first)
    assert first.computed == 0 and made.grow(first, 40) is not None
    first.computed = first.settled = 40
    made.close(first)
    made.open(second)
    assert second.computed == hit
    made.close(second)
    assert made.pool.free == made.pool.total


def test_a_missing_page_shortens_the_hit() -> None:
    made = groups(CacheGroup("f", "full", 4), CacheGroup("w", "window", 4, 9))
    first = row(range(40))
    made.open(first)
    made.grow(first, 40)
    first.computed = first.settled = 40
    made.close(first)
    keys = first.chains[4].keys
    lost = made.pool.find(1, keys[7])  # positions 28..31 of the window group
    assert lost is not None
    del made.pool._index[1][keys[7]], made.pool._names[lost]
    made.open(again := row(range(40)))
    assert again.computed == 28, "36 and 32 need what is lost; 28 needs blocks 5 and 6"


def test_a_proposer_with_kv_recomputes_the_last_block() -> None:
    limits = LIMITS._replace(proposer_kv=True)
    made = groups(CacheGroup("f", "full", 4), limits=limits)
    first = row(range(40), limits)
    made.open(first)
    made.grow(first, 40)
    first.computed = first.settled = 40
    made.close(first)
    made.open(again := row(range(40), limits))
    assert again.computed == 32


def test_reach_counts_every_group() -> None:
    full = CacheGroup("f", "full", 4)
    assert groups(full, pages=11).reach == 40
    assert groups(full, CacheGroup("s", "state", 4, publish="applied"), pages=11).reach < 24
    assert groups(CacheGroup("w", "window", 4, 8), pages=60).reach == 1000
