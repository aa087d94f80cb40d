"""One random workload: made from a seed, run to its end, compared with decoding every request alone."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from octavo.core.facts import CacheGroup, CachePlan
from octavo.core.request import Delta, EngineRequest, Finish, GrammarSpec, Pooling, PositionLogprobs, Sampling
from octavo.engine.loop import Loop
from octavo.scheduler.groups import CacheGroups
from octavo.scheduler.scheduler import Scheduler
from octavo.scheduler.state import Limits
from tests.fakes import VOCAB, DirectExecutor, FakeMasks, FakeRunner, PipelineExecutor, Shape, naive
from tests.fuzz.checks import Checked, check_idle

LONGEST = 64  # tokens of any request
TREES = ((-1, -1), (-1, -1, 0), (-1, 0, 0))
TURNS = 20_000  # far more than any case needs


@dataclass
class Heard:
    """What the front was told of one request."""

    tokens: list[int] = field(default_factory=list)
    scores: list[PositionLogprobs] = field(default_factory=list)
    cached: int | None = None
    last: Delta | None = None

    def hear(self, delta: Delta) -> None:
        assert self.last is None, f"{delta.id} speaks after its end"
        assert (delta.cached_tokens is not None) <= (self.cached is None), "cached_tokens come once"
        self.tokens += delta.tokens
        self.scores += delta.prompt_logprobs
        self.cached = delta.cached_tokens if self.cached is None else self.cached
        if delta.finish is not None:
            self.last = delta


@dataclass
class Case:
    """A workload: sizes, and requests with the turn at which each arrives or is aborted."""

    seed: int
    limits: Limits
    shape: Shape
    arrivals: list[tuple[int, EngineRequest]]
    aborts: list[tuple[int, str]]
    lazy: bool
    kill_at: int  # turn at which the core dies once; -1: never
    jumps: bool = True  # tokens that are certain are not sampled one by one


def make_case(seed: int) -> Case:
    rng = random.Random(seed)
    parents = rng.choice(TREES) if rng.random() < 0.15 else ()
    drafts = len(parents) or rng.choice((0, 0, 1, 3))
    staged = rng.random() < 0.08
    stages = rng.choice((2, 4)) if staged else 1
    limits = Limits(
        max_rows=rng.choice((1, 2, 4, 8)),
        budget=rng.choice((1, 3, 8, 64)),
        max_model_len=LONGEST if rng.random() < 0.9 else 30,
        depth=stages + 1 if staged else rng.choice((1, 2, 3)),
        drafts=drafts,
        chunk_cap=rng.choice((0, 0, 5)),
        policy=rng.choice(("fcfs", "priority")),
        prefix_caching=rng.random() < 0.85,
        model_key="fake",
        stages=stages,
        proposer_kv=rng.random() < 0.1,
    )
    groups = _groups(rng)
    cache = _cache(groups, limits, rng)
    shape = Shape(cache, drafts, parents, limits.max_model_len, staged, rng.choice((0.3, 0.6, 0.95)))
    arrivals = _requests(rng, shape)
    aborts = [(at + rng.randint(0, 25), r.id) for at, r in arrivals if rng.random() < 0.08]
    kill_at = rng.randint(1, 30) if rng.random() < 0.08 else -1
    return Case(seed, limits, shape, arrivals, aborts, rng.random() < 0.5, kill_at, rng.random() < 0.8)


def _groups(rng: random.Random) -> tuple[CacheGroup, ...]:
    size = rng.choice((1, 2, 4, 8))
    other = rng.choice((size, 2 * size))
    full = CacheGroup("full", "full", size, publish="planned" if rng.random() < 0.8 else "applied")
    window = CacheGroup("window", "window", other, window=rng.choice((1, 3, 8, 20)))
    state = CacheGroup("state", "state", other, publish="applied")
    kinds = rng.choice(
        ((full,), (full,), (full,), (window,), (full, window), (full, state), (full, window, state))
    )
    return kinds


def _cache(groups: tuple[CacheGroup, ...], limits: Limits, rng: random.Random) -> CachePlan:
    """The smallest pool in which the longest request fits, or a little more, or plenty."""
    pages = 2
    while True:
        cache = CachePlan(page_bytes=1, pages=pages, groups=groups, max_rows=limits.max_rows)
        if CacheGroups(cache, limits).reach >= limits.max_model_len:
            break
        pages += max(1, pages // 8)
    return CachePlan(
        page_bytes=1, pages=pages + rng.choice((0, 0, 2, 10, 100)), groups=groups, max_rows=limits.max_rows
    )


def _requests(rng: random.Random, shape: Shape) -> list[tuple[int, EngineRequest]]:
    shared = tuple(rng.randrange(VOCAB) for _ in range(20))
    found: list[tuple[int, EngineRequest]] = []
    for i in range(rng.randint(1, 9)):
        prompt = shared[: rng.randint(0, 20)] + tuple(rng.randrange(VOCAB) for _ in range(rng.randint(1, 12)))
        at = rng.randint(0, 30)
        first = _request(rng, str(i), prompt)
        found.append((at, first))
        for child in range(rng.choice((0, 0, 0, 1, 3))):
            found.append((at, _child(rng, first, child + 1)))
    for i in range(rng.randint(0, 3)):  # second turns: an earlier prompt, its answer, and more
        at, earlier = rng.choice(found)
        prompt = earlier.tokens + naive(earlier, shape).tokens + (rng.randrange(VOCAB),)
        found.append((at + rng.randint(0, 40), _request(rng, f"turn{i}", prompt[:45])))
    return sorted(found, key=lambda pair: pair[0])


def _request(rng: random.Random, name: str, prompt: tuple[int, ...]) -> EngineRequest:
    base = {
        "id": name,
        "tokens": prompt,
        "seed": rng.randrange(1 << 20),
        "priority": rng.randint(0, 2),
        "salt": rng.choice(("", "", "", "tenant")),
    }
    base["patient"] = base["seed"] % 4 == 0
    if rng.random() < 0.05:
        return EngineRequest(pooling=Pooling(), **base)
    sampling = Sampling(
        temperature=rng.choice((0.0, 1.0)),
        max_tokens=rng.choice((0, 1, rng.randint(1, 18), rng.randint(1, 18))),
        min_tokens=rng.choice((0, 0, 3)),
        eos=rng.choice(((), (5,), (5, 9))),
        stop_token_ids=rng.choice(((), (), (7,))),
        presence_penalty=rng.choice((0.0, 0.5)),
        prompt_logprobs=1 if rng.random() < 0.12 else None,
    )
    grammar = GrammarSpec("fake", str(rng.randint(0, 3))) if rng.random() < 0.2 else None
    return EngineRequest(sampling=sampling, grammar=grammar, **base)


def _child(rng: random.Random, first: EngineRequest, index: int) -> EngineRequest:
    sampling = None
    if first.sampling is not None:
        sampling = Sampling(
            temperature=1.0, max_tokens=rng.randint(1, 18), eos=first.sampling.eos, presence_penalty=0.5
        )
    return EngineRequest(
        id=f"{first.id}.{index}",
        tokens=first.tokens,
        seed=rng.randrange(1 << 20),
        parent=(first.id, index),
        sampling=sampling,
        pooling=first.pooling,
        grammar=first.grammar,
        priority=first.priority,
        patient=first.patient,
        salt=first.salt,
    )


class Run:
    """A case under way."""

    def __init__(
        self,
        case: Case,
        make: Callable[..., Scheduler] = Scheduler,
        make_loop: Callable[..., Loop] = Loop,
        make_executor: Callable[[], Any] | None = None,
    ) -> None:
        self.case = case
        self.make, self.make_loop, self.make_executor = make, make_loop, make_executor
        self.requests = {r.id: r for _, r in case.arrivals}
        self.heard = {name: Heard() for name in self.requests}
        self.aborted: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.clock = 0.0
        self._start()

    def _start(self) -> None:
        case = self.case
        self.runner = FakeRunner(case.shape, case.seed)
        self.masks = FakeMasks()
        self.scheduler = self.make(
            case.shape.cache, case.limits, clock=self._now, ahead=self.masks.ahead if case.jumps else None
        )
        self.checked = Checked(self.scheduler, self.requests)
        self.executor = self._executor()
        self.loop = self.make_loop(
            self.checked, self.executor, case.limits.depth, self.masks, case.shape.parents
        )

    def _executor(self) -> Any:
        if self.make_executor is not None:
            return self.make_executor()
        if self.case.shape.staged:
            return PipelineExecutor(self.runner, self.case.limits.stages)
        return DirectExecutor(self.runner, self.case.lazy)

    def _now(self) -> float:
        self.clock += 0.001
        return self.clock

    def go(self) -> Counter[str]:
        arrivals, aborts = list(self.case.arrivals), sorted(self.case.aborts)
        turn = 0
        while arrivals or self.scheduler.busy:
            while arrivals and (arrivals[0][0] <= turn or not self.scheduler.busy):
                self._add(arrivals.pop(0)[1])
            while aborts and aborts[0][0] <= turn:
                self._abort(aborts.pop(0)[1])
            if turn == self.case.kill_at:
                self._kill()
            self._hear(self.loop.turn())
            turn += 1
            assert turn < TURNS, "stuck"
        self._hear(self.loop.drain())
        check_idle(self.scheduler, self.runner if self.make_executor is None else None)
        self._compare()
        self._count()
        return self.counts

    def _add(self, request: EngineRequest) -> None:
        self.masks.add(request)
        self.scheduler.add(request)

    def _abort(self, name: str) -> None:
        if self.heard[name].last is None and name in self.scheduler._requests:
            self.aborted.add(name)
            used = self.scheduler.stats().blocks_used
            self.scheduler.abort([name, "nobody"])
            assert self.scheduler.stats().blocks_used <= used
            assert name not in self.scheduler._requests

    def _kill(self) -> None:
        """The core dies with everything in it; what is open is replayed with the tokens already sent."""
        asked = list(self.scheduler._requests)
        told = [delta for delta in self.scheduler.news()]
        self._hear(told)
        self._count()
        self.counts["kills"] += 1
        self._start()
        for name in asked:
            request, heard = self.requests[name], self.heard[name]
            if not heard.tokens:
                heard.scores.clear()
            heard.cached = None
            fields = {f: getattr(request, f) for f in request.__struct_fields__}
            self._add(EngineRequest(**{**fields, "output": tuple(heard.tokens)}))

    def _hear(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            self.heard[delta.id].hear(delta)

    def _compare(self) -> None:
        for name, request in self.requests.items():
            heard, answer = self.heard[name], naive(request, self.case.shape)
            where = (self.case.seed, name)
            assert heard.last is not None, (*where, "never finished")
            if heard.last.finish == Finish.ABORT:
                assert name in self.aborted, where
                assert tuple(heard.tokens) == answer.tokens[: len(heard.tokens)], where
                continue
            assert tuple(heard.tokens) == answer.tokens, (*where, heard.tokens, answer.tokens)
            assert heard.last.finish == answer.finish, where
            assert heard.last.stop_token == answer.stop, where
            assert tuple(heard.scores) == answer.scores, (*where, "prompt logprobs")
            assert heard.last.timeline is not None, where
            refused = len(request.tokens) >= self.case.limits.max_model_len
            assert heard.cached is not None or refused, where

    def _count(self) -> None:
        stats = self.scheduler.stats()
        for name in ("preemptions", "prefix_hits", "copies", "forks", "overlapped", "steps"):
            self.counts[name] += getattr(stats, name)
        self.counts["jumped"] += stats.jumped
        self.counts["drafts"] += stats.drafts
        self.counts["several"] += self.runner.several
        self.counts["accepted"] += self.runner.accepted
        self.counts["masked"] += self.masks.filled
        self.counts["aborted"] = sum(
            h.last is not None and h.last.finish == Finish.ABORT for h in self.heard.values()
        )
        self.counts["same"] += self.checked.same
        self.counts["trees"] += bool(self.case.shape.parents) and self.runner.accepted
        self.counts["staged"] += self.case.shape.staged
        self.counts["scores"] += sum(len(h.scores) for h in self.heard.values())
        self.counts["requests"] = len(self.requests)


def run_seed(
    seed: int, make: Callable[..., Scheduler] = Scheduler, make_loop: Callable[..., Loop] = Loop
) -> Counter[str]:
    """Runs one workload; AssertionError where anything differs."""
    return Run(make_case(seed), make, make_loop).go()
