"""Prefix reuse, exactly: with room for everything, each request finds all that earlier ones left."""

from __future__ import annotations

import random
from math import lcm
from typing import Any

from octavo.core.facts import CacheGroup, CachePlan
from octavo.core.request import EngineRequest, Sampling
from octavo.engine.loop import Loop
from octavo.scheduler.scheduler import Scheduler
from octavo.scheduler.state import Limits
from tests.fakes import VOCAB, DirectExecutor, FakeRunner, Shape


def check_hits(seed: int, make: Any = Scheduler, make_loop: Any = Loop) -> int:
    """Positions found by requests that come one after the other; AssertionError when one differs
    from the longest prefix that has KV, cut to whole blocks of every group."""
    rng = random.Random(seed)
    size = rng.choice((1, 2, 4))
    full = CacheGroup("full", "full", size)
    window = CacheGroup("window", "window", 2 * size, window=rng.choice((3, 7)))
    state = CacheGroup("state", "state", 3 * size, publish="applied")
    groups = rng.choice(((full,), (window,), (full, window), (full, state), (full, window, state)))
    unit = lcm(*(g.tokens_per_page for g in groups))
    cache = CachePlan(page_bytes=1, pages=4000, groups=groups, max_rows=2)
    limits = Limits(2, rng.choice((4, 64)), 512, depth=rng.choice((1, 2)), drafts=rng.choice((0, 2)))
    scheduler = make(cache, limits, clock=lambda: 1.0)
    loop = make_loop(scheduler, DirectExecutor(FakeRunner(Shape(cache, limits.drafts), seed)), limits.depth)
    left: dict[str, list[tuple[int, ...]]] = {"": [], "other": []}  # by salt: tokens that have KV
    found = 0
    for n in range(8):
        salt = rng.choice(("", "other"))
        tokens = _prompt(rng, left)
        most = rng.choice((1, 9))
        scheduler.add(
            EngineRequest(id=str(n), tokens=tokens, seed=n, salt=salt, sampling=Sampling(max_tokens=most))
        )
        output: tuple[int, ...] = ()
        cached = []
        while scheduler.busy:
            for delta in loop.turn():
                output += delta.tokens
                cached += [delta.cached_tokens] if delta.cached_tokens is not None else []
        longest = max((_common(tokens, earlier) for earlier in left[salt]), default=0)
        expected = min(longest, len(tokens) - 1) // unit * unit
        assert cached == [expected], (seed, n, cached, expected)
        found += expected
        left[salt].append((tokens + output)[:-1])  # the last token never got KV
    if limits.budget == 64 and all(g.publish == "planned" for g in groups):
        found += _twins(scheduler, loop, unit, rng)
    stats = scheduler.stats()
    assert stats.prefix_hits == found and stats.blocks_used == 0
    return found


def _twins(scheduler: Any, loop: Any, unit: int, rng: random.Random) -> int:
    """Two equal prompts at once: the second shares what the first has only been granted."""
    tokens = tuple(rng.randrange(100, 200) for _ in range(20))
    for name in ("a", "b"):
        scheduler.add(EngineRequest(id=name, tokens=tokens, seed=1, sampling=Sampling(max_tokens=2)))
    cached = {}
    while scheduler.busy:
        cached.update({d.id: d.cached_tokens for d in loop.turn() if d.cached_tokens is not None})
    assert cached == {"a": 0, "b": 19 // unit * unit}, cached
    return 19 // unit * unit


def _prompt(rng: random.Random, left: dict[str, list[tuple[int, ...]]]) -> tuple[int, ...]:
    """Something new, or the beginning of something earlier with something new behind it."""
    fresh = tuple(rng.randrange(VOCAB) for _ in range(rng.randint(1, 20)))
    earlier = [tokens for some in left.values() for tokens in some]
    if not earlier or rng.random() < 0.2:
        return fresh
    tokens = rng.choice(earlier)
    return tokens[: rng.randint(1, len(tokens))] + fresh


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
