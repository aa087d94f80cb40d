"""A device made of lists, and what runs it in tests. Small, real implementations; no torch.

The fake model's next token depends on every position, read back through the block tables: a wrong
table, a stale page or a lost copy gives a wrong token. Fresh pages are filled with garbage. Slots
hold the truth (tokens, lengths, drafts, done), as on a real device; `Answer` is what decoding one
request alone, from plain lists, gives.
"""

from __future__ import annotations

import random
import sys
from array import array
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from octavo.core.errors import Fault
from octavo.core.events import StepStats
from octavo.core.facts import CacheGroup, CachePlan, ModelFacts, Ready
from octavo.core.messages import (
    EOS,
    LENGTH,
    RUNNING,
    STOP,
    Admission,
    Copy,
    StepMasks,
    StepPlan,
    StepResult,
    Work,
    unpack_work,
)
from octavo.core.request import EngineRequest, Finish, PositionLogprobs, Sampling
from octavo.executor.lane import Lane, Step

VOCAB = 23
WORDS = -(-VOCAB // 32)


class Shape(NamedTuple):
    """What a fake device is made for."""

    cache: CachePlan
    drafts: int = 0
    parents: tuple[int, ...] = ()  # draft tree; a chain when empty
    max_model_len: int = 1 << 20
    staged: bool = False  # the first stage learns tokens from `feed` only
    right: float = 0.6  # share of proposals that are what the model would say

    def parent(self, node: int) -> int:
        return self.parents[node] if self.parents else node - 1


def plan_of(*groups: CacheGroup, pages: int = 1000, rows: int = 64) -> CachePlan:
    return CachePlan(
        page_bytes=1, pages=pages, groups=groups or (CacheGroup("full", "full", 4),), max_rows=rows
    )


# ---- the model: one value per group and position ---------------------------------------------


class Memory:
    """What a model remembers of a prefix, kept in plain values."""

    __slots__ = ("full", "state", "window")

    def __init__(self, full: int = 0, window: tuple[int, ...] = (), state: int = 0) -> None:
        self.full, self.window, self.state = full, window, state

    def after(self, token: int, position: int, width: int) -> Memory:
        entry = full_entry(self.full, token)
        window = (*self.window, window_entry(token, position))[-width:] if width else ()
        return Memory(hash((self.full, entry)), window, hash((self.state, token)))


def full_entry(context: int, token: int) -> int:
    return hash((context, token))


def window_entry(token: int, position: int) -> int:
    return hash((token, position, 77))


def width_of(groups: tuple[CacheGroup, ...]) -> int:
    return max((g.window for g in groups if g.kind == "window"), default=0)


def context_of(memory: Memory, kinds: frozenset[str]) -> int:
    parts = [memory.full if "full" in kinds else 0]
    parts.append(hash(memory.window) if "window" in kinds else 0)
    parts.append(memory.state if "state" in kinds else 0)
    return hash(tuple(parts))


def pick(
    context: int, position: int, seed: int, sampling: Sampling, output: list[int], allowed: list[int]
) -> int:
    """The token at `position`: a function of context, seed, position and the output so far."""
    if len(output) < sampling.min_tokens:
        allowed = [
            t for t in allowed if t not in sampling.eos and t not in sampling.stop_token_ids
        ] or allowed
    noise = (seed, position) if sampling.temperature else (0, 0)
    weight = sum(output) if sampling.presence_penalty else 0
    return allowed[hash((context, weight, *noise)) % len(allowed)]


def ending(token: int, outputs: int, length: int, sampling: Sampling, longest: int) -> int:
    if outputs >= sampling.min_tokens and token in sampling.eos:
        return EOS
    if outputs >= sampling.min_tokens and token in sampling.stop_token_ids:
        return STOP
    return LENGTH if outputs >= sampling.max_tokens or length >= longest else RUNNING


def score(context: int, token: int) -> PositionLogprobs:
    return PositionLogprobs(token, -float(abs(hash((context, token))) % 997), 1)


# ---- grammar -------------------------------------------------------------------------------------


def allowed_after(text: str, output: list[int], eos: tuple[int, ...]) -> list[int]:
    """The fake grammar: a token may not be equal to the last one plus `text`, modulo 3; under the
    grammar "3" only the first of every five has a choice. After an EOS only EOS is left."""
    if output and output[-1] in eos:
        return list(eos)
    last = output[-1] if output else 0
    if text == "3" and len(output) % 5:
        return [next(t for n in range(VOCAB) if (t := (7 * last + 3 + n) % VOCAB) not in eos)]
    return [t for t in range(VOCAB) if (t + last) % 3 != int(text)]


class FakeMasks:
    """The matchers of every request with a grammar."""

    def __init__(self) -> None:
        self.open: dict[str, tuple[EngineRequest, list[int]]] = {}
        self.filled = 0

    def add(self, request: EngineRequest) -> None:
        if request.grammar is not None:
            self.open[request.id] = (request, list(request.output))

    def accept(self, request: str, tokens: tuple[int, ...]) -> None:
        if request in self.open:
            self.open[request][1].extend(tokens)

    def close(self, request: str) -> None:
        self.open.pop(request, None)

    def only(self, token: int) -> bytes:
        return (1 << token).to_bytes(4 * WORDS, "little")

    def ahead(self, request: EngineRequest) -> list[int]:
        """What must follow the output that was told."""
        asked, output = self.open[request.id]
        assert asked.grammar is not None and asked.sampling is not None
        path: list[int] = []
        if output and output[-1] in asked.sampling.eos:
            return path
        while True:
            allowed = allowed_after(asked.grammar.text, output + path, asked.sampling.eos)
            if len(allowed) != 1:
                return path
            path += allowed

    def fill(self, request: str, path: tuple[int, ...]) -> bytes | None:
        asked, output = self.open[request]
        assert asked.grammar is not None and asked.sampling is not None
        output = list(output)
        for token in path:
            if token not in allowed_after(asked.grammar.text, output, asked.sampling.eos):
                return None
            output.append(token)
        bits = 0
        for token in allowed_after(asked.grammar.text, output, asked.sampling.eos):
            bits |= 1 << token
        self.filled += 1
        return bits.to_bytes(4 * WORDS, "little")


# ---- one request alone ---------------------------------------------------------------------------


class Answer(NamedTuple):
    tokens: tuple[int, ...]
    finish: Finish
    stop: int | None
    scores: tuple[PositionLogprobs, ...]


def naive(request: EngineRequest, shape: Shape) -> Answer:
    """What the request must be answered with, whatever else happens."""
    groups = shape.cache.groups
    kinds, width = frozenset(g.kind for g in groups), width_of(groups)
    memory, scores = Memory(), []
    sampling = request.sampling
    if len(request.tokens) > shape.max_model_len:
        return Answer((), Finish.ERROR, None, ())
    if len(request.tokens) == shape.max_model_len and sampling is not None and sampling.max_tokens:
        return Answer((), Finish.LENGTH, None, ())
    scored = sampling is not None and sampling.prompt_logprobs is not None
    for position, token in enumerate(request.tokens):
        if scored and position:
            scores.append(score(context_of(memory, kinds), token))
        memory = memory.after(token, position, width)
    if sampling is None or sampling.max_tokens == 0:
        finish = Finish.STOP if request.pooling is not None else Finish.LENGTH
        return Answer((), finish, None, tuple(scores))
    output: list[int] = []
    while True:
        length = len(request.tokens) + len(output)
        allowed = list(range(VOCAB))
        if request.grammar is not None:
            allowed = allowed_after(request.grammar.text, output, sampling.eos)
        token = pick(context_of(memory, kinds), length, request.seed, sampling, output, allowed)
        output.append(token)
        code = ending(token, len(output), length + 1, sampling, shape.max_model_len)
        if code != RUNNING:
            finish = Finish.LENGTH if code == LENGTH else Finish.STOP
            return Answer(tuple(output), finish, None if code == LENGTH else token, tuple(scores))
        memory = memory.after(token, length, width)


# ---- the device ----------------------------------------------------------------------------------


class Row:
    """One slot: the truth about a request."""

    def __init__(self, admission: Admission, groups: int, staged: bool) -> None:
        self.admission = admission
        self.tokens = list(admission.tokens)  # as the sampling stage knows them
        self.fed = list(admission.tokens) if staged else self.tokens  # as the first stage knows them
        self.prompt = admission.prompt
        self.computed = admission.start
        self.fresh = True  # no live state yet
        self.live = 0  # which live state is the accepted one
        self.tables: list[list[int]] = [[] for _ in range(groups)]
        self.drafts: list[int] = []
        self.done = False

    @property
    def samples(self) -> bool:
        sampling = self.admission.sampling
        return sampling is not None and sampling.max_tokens > 0


class Launched(NamedTuple):
    """A row's F, waiting for its S."""

    row: Row
    work: Work
    samples: bool
    known: int
    contexts: dict[int, int]  # by physical position, trailing ones only
    states: list[int]  # after each draft node


class FakePending:
    def __init__(self, result: StepResult, polls: int) -> None:
        self._result, self._polls = result, polls

    def ready(self) -> bool:
        self._polls -= 1
        return self._polls < 0

    def result(self) -> StepResult:
        return self._result


class FakeRunner:
    """executor.Runner over pages of Python lists."""

    def __init__(self, shape: Shape, seed: int = 0, polls: int = 0) -> None:
        self.shape = shape
        self.groups = shape.cache.groups
        self.kinds = frozenset(g.kind for g in self.groups)
        self.width = width_of(self.groups)
        self.rng = random.Random(seed)
        self.polls = polls
        size = max(g.tokens_per_page for g in self.groups)
        self.pages = [[-7 * page - n for n in range(size)] for page in range(shape.cache.pages)]
        self.rows: dict[int, Row] = {}
        self.copying: dict[int, Copy] = {}
        self.table: list[Work] = []
        self.launched: list[Launched] = []
        self.scanned: list[tuple[int, int]] = []  # snapshots: no row of the same step can read them
        self.plan: StepPlan | None = None
        self.accepted = self.several = self.later_branches = self.garbage = self.expected = 0
        self.fail_at = -1
        self.withhold = False  # copies are not acknowledged

    def start(self, progress: Callable[[str, float], None]) -> Ready:
        progress("loading", 1.0)
        facts = ModelFacts(architecture="Fake", vocab_size=VOCAB, max_position=1 << 20, num_layers=1)
        return Ready(
            cache=self.shape.cache,
            facts=facts,
            max_model_len=self.shape.max_model_len,
            dtype="int",
            attention="lists",
        )

    def call(self, name: str, args: dict[str, Any]) -> Any:
        if name == "echo":
            return args
        raise Fault(f"unknown call {name!r}")

    def close(self) -> None:
        self.rows.clear()

    # ---- F -----------------------------------------------------------------------------------

    def forward(self, plan: StepPlan) -> None:
        assert self.plan is None, "F of a plan before S of the one before"
        if plan.id == self.fail_at:
            raise RuntimeError("the fake device broke")
        assert plan.id >= self.expected, "plans out of order"
        self.expected = plan.id + 1
        self.plan = plan
        for slot in plan.release:
            del self.rows[slot]
        for a in plan.admit:
            assert a.slot not in self.rows, "slot admitted twice"
            self.rows[a.slot] = Row(a, len(self.groups), self.shape.staged)
        for slot, position, tokens in plan.feed:
            row = self.rows[slot]
            assert position == len(row.fed) or row.done, "fed at the wrong place"
            if self.shape.staged:
                row.fed += tokens
            else:
                row.drafts = list(tokens)
        for change in plan.blocks:
            self._take_pages(*change)
        for copy in plan.copies:
            self.copying[copy.id] = copy
            self.pages[copy.dst][:] = self.pages[copy.src]
        if plan.same:
            self.table = [w._replace(start=w.start + w.count) for w in self.table]
        else:
            self.table = list(unpack_work(plan.work))
        self.launched = [self._forward(w) for w in self.table]
        for page, state in self.scanned:
            self.pages[page][0] = state
        self.scanned.clear()

    def _take_pages(self, slot: int, group: int, first: int, ids: tuple[int, ...]) -> None:
        row, spec = self.rows[slot], self.groups[group]
        table, fixed = row.tables[group], self._fixed(spec)
        assert 0 not in ids and first >= len(table)
        busy = {page for copy in self.copying.values() for page in (copy.src, copy.dst)}
        table += [0] * (first - len(table))
        for page in ids:
            block = len(table) - fixed
            table.append(page)
            if block < 0 or (block + 1) * spec.tokens_per_page > row.admission.start:
                assert page not in busy, "a page was handed out before its copy was acknowledged"
                self.garbage += 1
                self.pages[page][:] = [-self.garbage * 1000 - n for n in range(len(self.pages[page]))]

    def _fixed(self, spec: CacheGroup) -> int:
        return self.shape.drafts + 1 if spec.kind == "state" else 0

    def _forward(self, work: Work) -> Launched:
        row = self.rows[work.slot]
        if row.done:
            return Launched(row, work, False, 0, {}, [])
        start, known = row.computed, len(row.fed)
        assert work.start >= start, "the host's bound is below the truth"
        assert work.start == start or start == known - 1, "only decodes may be overestimated"
        end = start + work.count
        assert end <= known + work.drafts, "positions without tokens"
        samples = end == known + work.drafts and row.samples
        assert samples or not work.drafts
        assert len(row.drafts) >= work.drafts, "the device has no such drafts"
        assert known == len(row.tokens) or not samples, "the first stage lacks tokens"
        memory = self._remember(row, start)
        contexts: dict[int, int] = {}
        first = end - work.logits
        for position in range(start, min(end, known)):
            memory = self._step(row, memory, row.fed[position], position, position, certain=True)
            if position >= first:
                contexts[position] = context_of(memory, self.kinds)
        self._save_state(row, 0, memory.state)
        row.fresh, row.live = False, 0
        nodes: list[Memory] = []
        for node in range(work.drafts):
            parent = self.shape.parent(node)
            before = nodes[parent] if parent >= 0 else memory
            depth = self._depth(node)
            after = self._step(row, before, row.drafts[node], known + depth, known + node, certain=False)
            self._save_state(row, node + 1, after.state)
            nodes.append(after)
            contexts[known + node] = context_of(after, self.kinds)
        if not samples:
            row.computed = end
        return Launched(row, work, samples, known, contexts, [m.state for m in nodes])

    def _depth(self, node: int) -> int:
        depth = 0
        while (node := self.shape.parent(node)) >= 0:
            depth += 1
        return depth

    def _at(self, row: Row, group: int, position: int) -> tuple[list[int], int]:
        size = self.groups[group].tokens_per_page
        page = row.tables[group][position // size]
        assert page, "reads or writes the null page"
        return self.pages[page], position % size

    def _remember(self, row: Row, length: int) -> Memory:
        """Reads what the pages say about positions [0, length)."""
        memory = Memory()
        for g, spec in enumerate(self.groups):
            if spec.kind == "full":
                for position in range(length):
                    page, at = self._at(row, g, position)
                    memory.full = hash((memory.full, page[at]))
            elif spec.kind == "window":
                seen = range(max(0, length - spec.window + 1), length)
                cells = [self._at(row, g, position) for position in seen]
                memory.window = tuple(page[at] for page, at in cells)
            elif spec.kind == "state" and length:
                if row.fresh:
                    index = self._fixed(spec) + length // spec.tokens_per_page - 1
                    assert length % spec.tokens_per_page == 0
                else:
                    index = row.live
                memory.state = self.pages[row.tables[g][index]][0]
        return memory

    def _step(self, row: Row, memory: Memory, token: int, position: int, place: int, certain: bool) -> Memory:
        """One token at `position`, its KV stored at `place` (the two differ in a draft tree)."""
        after = memory.after(token, position, self.width)
        for g, spec in enumerate(self.groups):
            if spec.kind == "full":
                page, at = self._at(row, g, place)
                page[at] = full_entry(memory.full, token)
            elif spec.kind == "window":
                page, at = self._at(row, g, place)
                page[at] = window_entry(token, position)
            elif spec.kind == "state" and certain:
                self.scanned += self._snapshot(row, g, position + 1, after.state)
        return after

    def _snapshot(self, row: Row, group: int, length: int, state: int) -> list[tuple[int, int]]:
        """The page that takes the state after `length` positions, if one does."""
        spec = self.groups[group]
        index = self._fixed(spec) + length // spec.tokens_per_page - 1
        if length % spec.tokens_per_page or index >= len(row.tables[group]):
            return []
        return [(row.tables[group][index], state)]

    def _save_state(self, row: Row, live: int, state: int) -> None:
        for g, spec in enumerate(self.groups):
            if spec.kind == "state":
                self.pages[row.tables[g][live]][0] = state

    # ---- S -----------------------------------------------------------------------------------

    def sample(self, masks: StepMasks | None) -> FakePending:
        assert self.plan is not None
        plan, self.plan = self.plan, None
        assert plan.masked == (masks is not None)
        allowed: dict[tuple[int, int], int] = {}
        if masks is not None:
            assert masks.plan_id == plan.id and len(masks.bits) == 4 * WORDS * len(masks.rows)
            for n, key in enumerate(masks.rows):
                allowed[key] = int.from_bytes(masks.bits[4 * WORDS * n : 4 * WORDS * (n + 1)], "little")
        width = 1 + max((w.drafts for w in self.table), default=0)
        tokens, counts, finished = array("i"), array("i"), bytearray()
        drafts, scores, used = [], [], 0
        for step in self.launched:
            new, code = self._sample(step, allowed) if step.samples else ([], RUNNING)
            tokens.extend(new + [0] * (width - len(new)))
            counts.append(len(new))
            finished.append(code)
            used += step.work.drafts
            self.accepted += max(0, len(new) - 1)
            self.several += len(new) > 1
            if step.row.admission.grammar and new:
                drafts.append((step.work.slot, tuple(step.row.drafts)))
            if positions := self._scores(step):
                scores.append(positions)
        late = 1.0 if self.withhold else 0.6 if self.launched else 0.0
        copied = [c for c in self.copying if self.rng.random() >= late]
        for copy in copied:
            del self.copying[copy]
        result = StepResult(
            plan_id=plan.id,
            tokens=tokens.tobytes(),
            counts=counts.tobytes(),
            finished=bytes(finished),
            drafts=tuple(drafts),
            prompt_logprobs=tuple(scores),
            copied=tuple(copied),
            stats=StepStats(rows=len(self.launched), drafts=used),
        )
        return FakePending(result, self.rng.randint(0, self.polls))

    def _sample(self, step: Launched, masks: dict[tuple[int, int], int]) -> tuple[list[int], int]:
        row, sampling = step.row, step.row.admission.sampling
        assert sampling is not None
        new: list[int] = []
        path: list[int] = []
        node, code = -1, RUNNING
        while True:
            length = len(row.tokens)
            place = step.known - 1 if node < 0 else step.known + node
            allowed = list(range(VOCAB))
            if row.admission.grammar:
                bits = masks.get((step.work.slot, node + 1))
                if bits is not None:
                    allowed = [t for t in allowed if bits >> t & 1]
                # no bits: the host has given this row up, nobody will see the token
            output = row.tokens[row.prompt :]
            token = pick(step.contexts[place], length, row.admission.seed, sampling, output, allowed)
            row.tokens.append(token)
            new.append(token)
            code = ending(token, len(output) + 1, length + 1, sampling, self.shape.max_model_len)
            if code != RUNNING:
                row.done = True
                break
            children = [n for n in range(step.work.drafts) if self.shape.parent(n) == node]
            node = next((n for n in children if row.drafts[n] == token), -1)
            if node < 0:
                break
            self.later_branches += node > children[0]
            path.append(node)
        self._commit(step, path)
        self._propose(row)
        return new, code

    def _commit(self, step: Launched, path: list[int]) -> None:
        """Moves the accepted path's KV together; selects the live state; takes snapshots."""
        row = step.row
        row.computed = step.known + len(path)
        row.live = path[-1] + 1 if path else 0
        for at, node in enumerate(path):
            for g, spec in enumerate(self.groups):
                if spec.kind == "state":
                    for page, state in self._snapshot(row, g, step.known + at + 1, step.states[node]):
                        self.pages[page][0] = state
                else:
                    source, i = self._at(row, g, step.known + node)
                    target, j = self._at(row, g, step.known + at)
                    target[j] = source[i]

    def _propose(self, row: Row) -> None:
        """Drafts after the last token: some are what the model would say, some are not."""
        row.drafts = []
        if not self.shape.drafts or row.done:
            return
        sampling = row.admission.sampling
        assert sampling is not None
        root = Memory()
        for position, token in enumerate(row.tokens):
            root = root.after(token, position, self.width)
        memories: list[Memory] = []
        paths: list[list[int]] = []
        for node in range(self.shape.drafts):
            parent = self.shape.parent(node)
            memory = memories[parent] if parent >= 0 else root
            path = paths[parent] if parent >= 0 else []
            length = len(row.tokens) + len(path)
            if self.rng.random() < self.shape.right:
                output = row.tokens[row.prompt :] + path
                context = context_of(memory, self.kinds)
                token = pick(context, length, row.admission.seed, sampling, output, list(range(VOCAB)))
            else:
                token = self.rng.randrange(VOCAB)
            row.drafts.append(token)
            paths.append([*path, token])
            memories.append(memory.after(token, length, self.width))

    def _scores(self, step: Launched) -> tuple[int, int, tuple[PositionLogprobs, ...]] | None:
        row, sampling = step.row, step.row.admission.sampling
        if sampling is None or sampling.prompt_logprobs is None:
            return None
        scored = [p for p in sorted(step.contexts) if p + 1 < row.prompt]
        if not scored:
            return None
        values = tuple(score(step.contexts[p], row.tokens[p + 1]) for p in scored)
        return step.work.slot, scored[0] + 1, values


# ---- executors for tests -------------------------------------------------------------------------


class LaneFuture:
    """A result that is computed when somebody waits for it, at the latest."""

    def __init__(self, pump: Callable[[LaneFuture], None]) -> None:
        self._pump = pump
        self.value: StepResult | None = None

    def result(self) -> StepResult:
        self._pump(self)
        assert self.value is not None, "deadlock: the step waits for its masks"
        return self.value


class DirectExecutor:
    """No thread: steps run when submitted (eager) or when their result is wanted (lazy)."""

    def __init__(self, runner: FakeRunner, lazy: bool = False) -> None:
        self._lane = Lane(runner)
        self._lazy = lazy

    def submit(self, plan: StepPlan) -> Any:
        future = LaneFuture(self._pump)
        self._lane.submit(Step(plan, lambda result: setattr(future, "value", result)))
        if not self._lazy:
            while self._lane.launch():
                pass
        return future

    def mask(self, masks: StepMasks) -> None:
        self._lane.mask(masks)

    def _pump(self, wanted: LaneFuture) -> None:
        while wanted.value is None and (self._lane.deliver() or self._lane.launch() or self._lane.flying):
            pass


class PipelineExecutor:
    """Stages in lockstep: each tick moves every plan one stage on; results leave the last one.

    The fake device does all of a plan's work in the tick it leaves the last stage, so a plan's F
    has started in order and its tokens are late by as many ticks as there are stages."""

    def __init__(self, runner: FakeRunner, stages: int) -> None:
        self._direct = DirectExecutor(runner)
        self._stages: deque[tuple[StepPlan, Any] | None] = deque([None] * stages)
        self._waiting: deque[tuple[StepPlan, LaneFuture]] = deque()
        self.ticks = self.busy = 0

    def submit(self, plan: StepPlan) -> Any:
        future = LaneFuture(self._pump)
        self._waiting.append((plan, future))
        return future

    def mask(self, masks: StepMasks) -> None:
        self._direct.mask(masks)

    def _pump(self, wanted: LaneFuture) -> None:
        while wanted.value is None:
            self._tick()

    def _tick(self) -> None:
        self.ticks += 1
        self._stages.appendleft(self._waiting.popleft() if self._waiting else None)
        self.busy += sum(entry is not None for entry in list(self._stages)[:-1])
        leaving = self._stages.pop()
        if leaving is not None:
            plan, future = leaving
            future.value = self._direct.submit(plan).result()


def runner_factory(config: dict[str, Any]) -> FakeRunner:
    """For a worker process: `tests.fakes:runner_factory`."""
    groups = tuple(CacheGroup(*g) for g in config["groups"])
    cache = plan_of(*groups, pages=config["pages"], rows=config["rows"])
    shape = Shape(
        cache, config.get("drafts", 0), tuple(config.get("parents", ())), right=config.get("right", 0.6)
    )
    runner = FakeRunner(shape, config.get("seed", 0), config.get("polls", 0))
    runner.fail_at = config.get("fail_at", -1)
    if config.get("exit"):
        sys.exit(3)
    return runner
