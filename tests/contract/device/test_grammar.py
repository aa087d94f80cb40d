"""Real matchers on the fake device: nothing the scheduler does to a row changes what it says."""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec
import pytest

from octavo.core.facts import CacheGroup
from octavo.core.messages import RUNNING
from octavo.core.request import EngineRequest, Finish, GrammarSpec, Sampling
from octavo.engine.loop import Loop
from octavo.engine.masks import Grammars
from octavo.grammar.backend import Vocabulary
from octavo.grammar.compile import Compiler
from octavo.grammar.guidance import GuidanceBackend
from octavo.scheduler.scheduler import Scheduler
from octavo.scheduler.state import Limits
from tests.contract.device.cases import FULL, STATE, WINDOW
from tests.fakes import (
    VOCAB,
    DirectExecutor,
    FakeRunner,
    Memory,
    Shape,
    context_of,
    ending,
    pick,
    plan_of,
    width_of,
)

END = 5
TOKENS = [b"a", b"b", b"c", b"ab", b"abc", b"", b"1", b"2", b"12", b",", b"{", b"}", b'"', b":"]
TOKENS += [b'{"', b'":', b'"}', b'"a"', b"x", b"y", b"xy", b" ", b"-"]
VOCABULARY = Vocabulary(TOKENS, (END,), (END,), lambda text: [])
BACKEND = GuidanceBackend(VOCABULARY)
PATTERNS = (r"[ab]{2,12}(,[12]{1,3}){1,4}", r"(x|yx)+-abcabc[abc]{3,9}", r"(ab|a|b|c){6,20}")
SCHEMA = '{"type":"object","properties":{"a":{"enum":["x","abc","12"]}},"required":["a"],"additionalProperties":false}'
SPECS = [*(GrammarSpec("regex", pattern) for pattern in PATTERNS), GrammarSpec("json", SCHEMA, "")]


def asked(count: int, *, same: bool = False, **sampling: object) -> list[EngineRequest]:
    """Requests with every grammar in turn, each fourth without one; `same` prompts share their prefix."""
    return [
        EngineRequest(
            id=str(n),
            tokens=(*range(12), *(() if same else (n % 7, n % 3))),
            seed=1000 + n,
            sampling=Sampling(**{"max_tokens": 40, "eos": (END,), **sampling}),
            grammar=SPECS[n % 5] if n % 5 < len(SPECS) else None,
        )
        for n in range(count)
    ]


def alone(request: EngineRequest, groups: tuple[CacheGroup, ...]) -> list[int]:
    """The request decoded from plain lists, its matcher made anew for every token."""
    kinds, width, sampling = frozenset(g.kind for g in groups), width_of(groups), request.sampling
    assert sampling is not None
    memory = Memory()
    for position, token in enumerate(request.tokens):
        memory = memory.after(token, position, width)
    output: list[int] = []
    while True:
        allowed = list(range(VOCAB))
        if request.grammar is not None:
            matcher = BACKEND.compile(request.grammar)
            assert all(matcher.accept(token) for token in output)
            bits = int.from_bytes(matcher.fill(), "little")
            allowed = [token for token in allowed if bits >> token & 1]
        length = len(request.tokens) + len(output)
        token = pick(context_of(memory, kinds), length, request.seed, sampling, output, allowed)
        output.append(token)
        if ending(token, len(output), length + 1, sampling, 1 << 20) != RUNNING:
            return output
        memory = memory.after(token, length, width)


class Setup(NamedTuple):
    groups: tuple[CacheGroup, ...] = (FULL,)
    pages: int = 600
    drafts: int = 0
    depth: int = 2
    rows: int = 8
    budget: int = 32
    ahead: bool = False


class House:
    """Scheduler, loop, device and matchers."""

    def __init__(self, setup: Setup) -> None:
        cache = plan_of(*setup.groups, pages=setup.pages, rows=setup.rows)
        shape = Shape(cache, setup.drafts, max_model_len=4096)
        limits = Limits(setup.rows, setup.budget, 4096, setup.depth, setup.drafts, model_key="fake")
        self.compiler = Compiler(lambda: BACKEND, keep=8)
        self.grammars = Grammars(self.compiler, VOCAB, (END,), timeout=60)
        self.runner = FakeRunner(shape)
        ahead = self.grammars.ahead if setup.ahead else None
        self.scheduler = Scheduler(cache, limits, guests=(self.grammars,), ahead=ahead)
        self.loop = Loop(self.scheduler, DirectExecutor(self.runner), setup.depth, self.grammars)
        self.said: dict[str, list[int]] = {}
        self.ended: dict[str, Finish] = {}

    def run(self, requests: list[EngineRequest], turns: int = 1 << 30) -> None:
        for request in requests:
            self.scheduler.add(request)
            self.grammars.open(request)
            self.said[request.id] = list(request.output)
        for future, _ in self.grammars._compiling.values():  # so that every run admits the same rows at
            future.exception(10)  # the same step
        while self.scheduler.busy and turns:
            turns -= 1
            deltas = self.loop.turn()
            for delta in deltas:
                self.said[delta.id] += delta.tokens
                if delta.finish is not None:
                    self.ended[delta.id] = delta.finish
            if not deltas and not self.loop.in_flight:
                self.grammars.wait(10)
        assert not self.grammars.failures()


def check(house: House, requests: list[EngineRequest], groups: tuple[CacheGroup, ...] = (FULL,)) -> None:
    for request in requests:
        said = house.said[request.id]
        assert said == alone(request, groups), request.id
        if request.grammar is not None and house.ended[request.id] is Finish.STOP:
            text = b"".join(TOKENS[token] for token in said).decode()
            if request.grammar.kind == "regex":
                assert re.fullmatch(request.grammar.text, text)
            else:
                assert msgspec.json.decode(text)["a"] in ("x", "abc", "12")
    assert not house.grammars._open and not house.grammars._compiling


SETUPS = {
    "one at a time": Setup(depth=1, rows=1),
    "two plans in flight": Setup(),
    "three plans, drafts": Setup(depth=3, drafts=3),
    "drafts": Setup(drafts=2),
    "small budget": Setup(budget=5, drafts=2),
    "few pages": Setup(pages=34),
    "few pages, drafts": Setup(pages=40, drafts=3),
    "other caches": Setup(groups=(FULL, WINDOW, STATE), pages=1200, drafts=2),
    "jumps, one at a time": Setup(depth=1, rows=4, ahead=True),
    "jumps": Setup(rows=16, ahead=True),
    "jumps, three plans": Setup(depth=3, rows=16, ahead=True),
    "jumps, small budget": Setup(budget=5, rows=16, ahead=True),
    "jumps, few pages": Setup(pages=34, rows=16, ahead=True),
    "jumps, window": Setup(groups=(FULL, WINDOW), pages=1200, rows=16, ahead=True),
}


@pytest.mark.parametrize("name", SETUPS)
def test_a_row_says_what_it_would_say_alone(name):
    setup, requests = SETUPS[name], asked(20)
    house = House(setup)
    house.run(requests)
    check(house, requests, setup.groups)
    stats = house.scheduler.stats()
    assert house.grammars.filled > 0 and stats.masked > 0
    assert stats.preemptions > 0 or "few pages" not in name
    assert stats.overlapped > 0 or setup.depth == 1
    assert house.runner.accepted > 0 or not setup.drafts
    assert (stats.jumped > 0) is setup.ahead
    assert house.runner.accepted == stats.jumped or not setup.ahead  # what was certain was never refused


def test_prefix_cache_and_shared_prompts():
    requests = asked(10, same=True)
    house = House(Setup())
    house.run(requests)
    again = [msgspec.structs.replace(request, id=f"again {request.id}") for request in requests]
    house.run(again)
    check(house, [*requests, *again])
    assert house.scheduler.stats().prefix_hits > 0


def test_children_have_matchers_of_their_own():
    first = asked(1)[0]
    family = [first] + [
        msgspec.structs.replace(first, id=f"0-{n}", parent=("0", n), seed=n) for n in range(1, 5)
    ]
    house = House(Setup())
    house.run(family)
    check(house, family)
    assert house.scheduler.stats().forks > 0 and len({tuple(house.said[r.id]) for r in family}) > 1


def test_penalties_and_min_tokens():
    requests = asked(10, presence_penalty=0.5, min_tokens=6)
    house = House(Setup(drafts=2))
    house.run(requests)
    check(house, requests)


@pytest.mark.parametrize("turns", range(3, 40, 4))
def test_replayed_by_another_core(turns):
    requests = asked(8)
    house = House(Setup())
    house.run(requests, turns)
    open_ = [r for r in requests if r.id not in house.ended]
    other = House(Setup(drafts=2))
    other.run([msgspec.structs.replace(r, output=tuple(house.said[r.id]), parent=None) for r in open_])
    for request in open_:
        assert other.said[request.id] == alone(request, (FULL,))
