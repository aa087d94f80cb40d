"""The scheduler: which positions of which requests the next step computes.

One rule: a request has `tokens` (known and in flight) and `computed`; a step computes positions
[computed, tokens + drafts) within the token budget. Prefill, chunk, decode, resume and verify
are one case. Plans are made from upper bounds; the device keeps the truth and results correct us.

Pages are safe by device order: plans run in the order they are made, so a page given back now may
be handed out in the next plan although a step in flight still writes it. Only copies are not
bound to that order: their pages stay held until a result acknowledges them.
"""

from __future__ import annotations

import time
from array import array
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any

from octavo.core.errors import UserError
from octavo.core.events import CoreStats
from octavo.core.facts import CachePlan
from octavo.core.messages import EOS, LENGTH, NO_MEMORY, STOP, WORK_COLUMNS, StepPlan, StepResult
from octavo.core.request import Delta, EngineRequest, Finish
from octavo.scheduler.copies import Copies
from octavo.scheduler.flight import Flight, MaskedRow
from octavo.scheduler.groups import CacheGroups
from octavo.scheduler.guests import Ahead, Guest
from octavo.scheduler.queue import WaitingQueue
from octavo.scheduler.report import Counters, Extras
from octavo.scheduler.state import Limits, RequestState

Clock = Callable[[], float]
_NO_MEMORY = (
    "the device has no memory left to compute this request (send it again; where that happens often, start "
    "with a lower gpu_memory_utilization, which leaves more beside the KV cache)"
)
_FINISH = {EOS: Finish.STOP, STOP: Finish.STOP, LENGTH: Finish.LENGTH}


class Scheduler:
    """Owns every request from `add` until its last Delta, and all page ids and slots.

    One thread. `plan` and `apply` alternate as the caller likes, results in the order of plans.
    An aborted or impossible request says so in the next `apply`, or in `news` where nothing is due.
    `ahead` knows tokens before they are sampled; they go as drafts, which are never refused.
    """

    def __init__(
        self,
        cache: CachePlan,
        limits: Limits,
        *,
        clock: Clock = time.monotonic,
        guests: Sequence[Guest] = (),
        ahead: Ahead | None = None,
    ) -> None:
        self.limits = limits
        self._clock = clock
        self._guests = tuple(guests)
        self._ahead = None if _drafts_elsewhere(cache, limits) else ahead
        self._groups = CacheGroups(cache, limits)
        self._cap = limits.chunk_cap or limits.budget
        self._staged = limits.stages > 1
        self._drafts = 0 if self._staged else limits.drafts
        self._longest = min(limits.max_model_len, self._groups.reach)
        self._spare = cache.pages // 100  # an admission leaves so many pages to the rows that run
        self._requests: dict[str, RequestState] = {}
        self._queue = WaitingQueue()
        self._aside: list[RequestState] = []  # a guest was not ready for them
        self._running: list[RequestState] = []  # sorted by order
        self._parents: dict[RequestState, None] = {}  # running, with children waiting for them
        self._slots = deque(range(min(limits.max_rows, cache.max_rows)))
        self._release: list[int] = []
        self._flights: deque[Flight] = deque()
        self._copies = Copies(self._groups.pool)
        self._news: list[Delta] = []
        self._table = b""  # of the last plan
        self._sequence, self._plan_ids = count(), count()
        self._counters = Counters()

    # ---- requests come and go ---------------------------------------------------------------

    def add(self, request: EngineRequest) -> None:
        """Takes a request in. UserError when the id is taken."""
        if request.id in self._requests:
            raise UserError(
                f"request id {request.id!r} is already in use", field="id", hint="send a fresh id"
            )
        r = RequestState.of(request, self.limits, self._longest, next(self._sequence), self._clock())
        self._requests[r.id] = r
        if r.prompt > self._longest:
            self._finish(r, Finish.ERROR, f"the prompt has {r.prompt} tokens, the limit is {self._longest}")
        elif r.samples and len(r.tokens) >= r.limit:
            self._finish(r, Finish.LENGTH)
        elif (parent := self._parent(r)) is not None:
            r.parent = parent
            parent.children.append(r)
            if parent.slot >= 0:
                self._parents[parent] = None
        else:
            self._queue.push(r)

    def abort(self, ids: Iterable[str]) -> None:
        """Ends requests at once; unknown ids are ignored. Pages are free now, the slot with the next plan."""
        for request_id in ids:
            if (r := self._requests.get(request_id)) is not None:
                self._finish(r, Finish.ABORT)

    def fail(self, request_id: str, why: str) -> None:
        """Ends a request with Finish.ERROR and a text for its user; an unknown id is ignored."""
        if (r := self._requests.get(request_id)) is not None:
            self._finish(r, Finish.ERROR, why)

    def _parent(self, r: RequestState) -> RequestState | None:
        """The request to fork, where that would give the same KV."""
        parent = self._requests.get(r.request.parent[0]) if r.request.parent else None
        if parent is None or r.uncached:
            return None
        mine, theirs = r.request, parent.request
        same = mine.tokens == theirs.tokens and mine.media == theirs.media
        return parent if same and (mine.adapter, mine.salt) == (theirs.adapter, theirs.salt) else None

    def _finish(
        self, r: RequestState, finish: Finish, error: str | None = None, refused: bool = True
    ) -> None:
        """Ends a request with a Delta of its own. `refused`: where it is an error, the request's own."""
        self._leave(r, finish)
        refused = refused and finish is Finish.ERROR
        delta = Delta(id=r.id, finish=finish, error=error, refused=refused, timeline=r.final_timeline())
        self._news.append(delta)

    def _lose(self, r: RequestState, f: Flight) -> None:
        """Ends a request whose step found no memory, and those that were admitted since on pages it was to
        write; where it has left its pages meanwhile, those on any page they found."""
        missing = self._groups.unwritten(r)
        hits = {a.slot for flight in (f, *self._flights) for a in flight.admit if a.start}
        doubtful = [v for v in self._running if v is not r and v.slot in hits]
        ended = [v for v in doubtful if not r.tables or self._groups.reads(v, missing)]
        for v in ended if r.finish is not None else (r, *ended):
            self._finish(v, Finish.ERROR, _NO_MEMORY, refused=False)
        self._groups.forget(self._running)

    def _leave(self, r: RequestState, finish: Finish) -> None:
        r.finish = finish
        del self._requests[r.id]
        self._queue.discard(r)
        if r.slot >= 0:
            self._drop(r)
        self._wake_children(r)

    def _drop(self, r: RequestState) -> None:
        """Takes slot and pages away."""
        self._groups.close(r)
        self._running.remove(r)
        self._slots.append(r.slot)
        self._release.append(r.slot)
        r.slot = -1
        r.drafting = False
        for guest in self._guests:
            guest.leave(r.request)

    def _preempt(self, r: RequestState) -> None:
        """Back to the queue, to be computed again; not before every result of it is in."""
        self._drop(r)
        self._wake_children(r)
        r.preemptions += 1
        self._counters.preemptions += 1
        if r.flights == 0:
            self._queue.push(r)

    def _wake_children(self, r: RequestState) -> None:
        self._parents.pop(r, None)
        for child in r.children:
            if child.finish is None:
                self._queue.push(child)
        r.children.clear()

    # ---- plan -------------------------------------------------------------------------------

    def plan(self) -> StepPlan | None:
        """The next step, or None when there is nothing to compute before a result comes in."""
        began = self._clock()
        self._wake()
        flight = Flight(next(self._plan_ids), self.limits.budget, self._room())
        flight.awaited = bool(self._running)
        flight.spare = self.limits.max_rows - len(self._running) - len(self._queue)
        self._continue(flight, self._decode(flight))
        self._admit(flight, began)
        if not flight.rows and (self._flights or not self._copies):
            return None  # a plan without work only asks for acknowledgements
        self._counters.steps += bool(flight.rows)
        self._counters.overlapped += bool(flight.rows and self._flights)
        self._counters.masked += len(flight.masked)
        self._counters.jumped += flight.jumped
        self._flights.append(flight)
        plan = flight.seal(tuple(self._release), self._table)
        self._release.clear()
        self._table = flight.table.tobytes()
        self._counters.host_s += self._clock() - began
        return plan

    def _wake(self) -> None:
        """Children whose parent's prompt has KV by now, and those who stepped aside, may be admitted."""
        for parent in list(self._parents):
            if parent.settled >= parent.prompt:
                self._wake_children(parent)
        for r in self._aside:
            if r.finish is None:
                self._queue.push(r)
        self._aside.clear()

    def _room(self) -> int:
        """Rows of one plan: stages of a pipeline need as many plans in flight, so rows are shared out."""
        rows = self.limits.max_rows
        if not self._staged:
            return rows
        return -(-min(rows, len(self._running) + len(self._queue)) // self.limits.depth)

    def _decode(self, f: Flight) -> list[RequestState]:
        """Grants rows that go on from their own sample; returns the others."""
        others = []
        most, staged = self._drafts, self._staged
        for r in list(self._running):
            length = len(r.tokens) + r.pending
            start = r.computed
            if length - start != 1 or not r.drafting:
                others.append(r)
                continue
            left = r.limit - length
            if left <= 0 or not f.budget or not f.room or (staged and r.pending):
                continue
            if self._ahead is not None and r.guided and self._jump(f, r):
                continue
            drafts = min(most, left - 1, f.budget - 1) if most else 0
            end = start + 1 + drafts
            if end <= r.capacity or self._grow(f, r, end):
                self._grant(f, r, 1 + drafts, drafts, drafts + 1, drafts + 1)
        return others

    def _jump(self, f: Flight, r: RequestState) -> bool:
        """Grants a row its next tokens at once where they are certain: those beyond what is in flight."""
        length = len(r.tokens) + r.pending
        most = min(r.limit - length - 1, f.budget - 1, f.spare)
        if most <= 0 or self._ahead is None:
            return False
        path = tuple(self._ahead(r.request)[r.pending : r.pending + most])
        end = length + len(path)
        if not path or (end > r.capacity and not self._grow_freely(f, r, end)):
            return False
        f.spare -= len(path)
        self._grant(f, r, 1 + len(path), len(path), len(path) + 1, len(path) + 1, path)
        return True

    def _continue(self, f: Flight, rows: list[RequestState]) -> None:
        """Grants chunks to rows in the middle of known tokens, leaving a share for one admission."""
        keep = max(1, f.budget // 4) if len(self._queue) and self._slots and f.budget > 1 else 0
        for r in rows:
            todo = min(len(r.tokens) - r.computed, self._cap, f.budget - keep)
            if r.slot < 0 or todo <= 0 or not f.room:
                continue
            if r.computed + todo <= r.capacity or self._grow(f, r, r.computed + todo):
                self._grant_known(f, r, todo)

    def _grow(self, f: Flight, r: RequestState, end: int) -> bool:
        """Pages up to `end`, taken from rows that come after this one and have no work yet in this plan."""
        while (news := self._groups.grow(r, end)) is None:
            victim = next((v for v in reversed(self._running) if v.granted != f.id), r)
            f.starved = True
            if victim.order <= r.order:
                return False  # it waits, with its pages, for the rows before it
            self._preempt(victim)
        f.blocks += [(r.slot, *change) for change in news]
        return True

    def _grow_freely(self, f: Flight, r: RequestState, end: int) -> bool:
        """Pages up to `end` where nobody misses them."""
        news = self._groups.grow(r, end, self._spare)
        f.blocks += [(r.slot, *change) for change in news or ()]
        return news is not None

    def _grant_known(self, f: Flight, r: RequestState, todo: int) -> None:
        """Work on tokens the host knows: a chunk, or the last of them with a sample."""
        end = r.computed + todo
        samples = int(r.samples and end == len(r.tokens))
        logits = samples
        if (
            r.sampling is not None
            and r.sampling.prompt_logprobs is not None
            and r.scored < min(end + 1, r.prompt)
        ):
            logits = max(samples, end - max(r.computed, r.scored - 1))
            r.scored = min(end, r.prompt - 1) + 1
        self._counters.prompt_tokens += todo
        self._grant(f, r, todo, 0, logits, samples)

    def _grant(
        self,
        f: Flight,
        r: RequestState,
        todo: int,
        drafts: int,
        logits: int,
        upper: int,
        path: tuple[int, ...] = (),
    ) -> None:
        end = f.add(r, todo, drafts, logits, upper, path)
        if self._staged:
            self._feed(f, r)
        certain = min(end, len(r.tokens))
        if certain >= r.offer_at:
            self._groups.offer(r, certain)

    def _feed(self, f: Flight, r: RequestState) -> None:
        """The first stage of a pipeline never sees samples: it gets them with the next plan."""
        if r.fed < len(r.tokens):
            f.feed.append((r.slot, r.fed, tuple(r.tokens[r.fed :])))
            r.fed = len(r.tokens)

    # ---- admissions -------------------------------------------------------------------------

    def _admit(self, f: Flight, now: float) -> None:
        """Strictly in order: whoever is first and does not fit keeps the others waiting."""
        while self._slots and f.budget and f.room and not f.starved:
            r = self._queue.peek()
            if r is None:
                return
            if not all(guest.ready(r.request) for guest in self._guests):
                self._aside.append(self._queue.pop())
            elif self._admit_one(f, r):
                r.scheduled = r.scheduled or now
                self._queue.pop()
            else:
                return

    def _admit_one(self, f: Flight, r: RequestState) -> bool:
        parent, copies = r.parent, None
        if parent is not None and parent.slot >= 0 and parent.settled >= parent.prompt:
            copies = self._groups.fork(r, parent, r.prompt - 1)
        if copies is None:
            parent = None
            self._groups.open(r)
        todo = min(len(r.tokens) - r.computed, self._cap, f.budget)
        if self._groups.grow(r, r.computed + todo, self._spare if self._running else 0) is None:
            self._groups.close(r)
            return False
        r.slot = self._slots.popleft()
        r.fed = len(r.tokens)
        f.blocks += [(r.slot, *change) for change in self._groups.whole(r)]
        f.copies += [self._copies.begin("cow", *copy) for copy in copies or ()]
        self._counters.copies += len(copies or ())
        self._count_hit(r, parent)
        f.admit_row(r, parent.slot if parent is not None else None)
        r.parent = None
        insort(self._running, r, key=_order)
        if r.children:
            self._parents[r] = None
        for guest in self._guests:
            guest.admit(r.request)
        self._grant_known(f, r, todo)
        return True

    def _count_hit(self, r: RequestState, parent: RequestState | None) -> None:
        if parent is not None:
            self._counters.forks += 1
        if r.cached is not None:
            return  # it was here before
        if parent is not None:
            r.cached = parent.cached
        else:
            r.cached = min(r.computed, r.prompt)
            self._counters.prefix_queries += 0 if r.uncached else r.prompt
            self._counters.prefix_hits += r.cached

    # ---- apply ------------------------------------------------------------------------------

    def apply(self, result: StepResult) -> list[Delta]:
        """Takes in what the oldest plan in flight brought; what is new for the front."""
        began = self._clock()
        f = self._flights.popleft()
        assert f.id == result.plan_id, "results come in the order of plans"
        self._copies.acknowledge(result.copied)
        deltas = self.news()
        if f.rows:
            for i, r in enumerate(f.rows) if NO_MEMORY in result.finished else ():
                if result.finished[i] == NO_MEMORY:
                    self._lose(r, f)
            self._settle(f, result, deltas, began)
            deltas += self.news()
        self._counters.took(result.stats, began, self._clock(), f.awaited)
        return deltas

    def news(self) -> list[Delta]:
        """Deltas that no step brings: aborts, refusals. Included in `apply`."""
        news, self._news = self._news, []
        return news

    def masked(self, plan_id: int) -> list[MaskedRow]:
        """Rows of a plan in flight that sample under a grammar and are still wanted."""
        for f in self._flights:
            if f.id == plan_id:
                return [row for row in f.masked if row.request in self._requests]
        return []

    def _settle(self, f: Flight, result: StepResult, deltas: list[Delta], now: float) -> None:
        tokens = array("i", result.tokens)
        counts = array("i", result.counts) if result.counts else array("i", bytes(4 * len(f.rows)))
        finished = result.finished or bytes(len(f.rows))
        width = len(tokens) // len(f.rows)
        extras = Extras(result) if result.logprobs or result.prompt_logprobs or result.vectors else None
        self._counters.generated_tokens += sum(counts)
        for i, r in enumerate(f.rows):
            upper, n = f.upper[i], counts[i]
            r.flights -= 1
            if upper:
                r.pending -= upper
                r.computed -= upper - n
            if r.finish is not None:
                continue
            if n == 1 and r.first_token and extras is None and not finished[i]:
                token = tokens[i * width]
                r.tokens.append(token)
                r.last_token = now
                deltas.append(Delta(id=r.id, tokens=(token,)))
            else:
                r.tokens.extend(tokens[i * width : i * width + n])
                extra = extras.of(i, f.table[i * WORK_COLUMNS]) if extras else {}
                self._report(r, n, f.ends[i], finished[i], extra, deltas, now)
            if r.slot >= 0:
                r.settled = len(r.tokens) - 1 if upper else f.ends[i]
                if r.settled >= r.tidy_at:
                    self._groups.tidy(r)
            elif not r.flights and r.finish is None:
                self._queue.push(r)

    def _report(
        self,
        r: RequestState,
        n: int,
        end: int,
        code: int,
        extra: dict[str, Any],
        deltas: list[Delta],
        now: float,
    ) -> None:
        """Everything a row may have to say beside one more token. Its last `n` tokens are new."""
        new = tuple(r.tokens[len(r.tokens) - n :])
        if new:
            r.first_token, r.last_token = r.first_token or now, now
        finish = None
        if r.samples:
            finish = _FINISH.get(code)
        elif end == len(r.tokens):
            finish = Finish.STOP if r.request.pooling is not None else Finish.LENGTH
        if not (new or extra or finish):
            return
        if finish is not None:
            r.settled = len(r.tokens) - 1 if n else end  # the last token never got KV
            self._leave(r, finish)
            extra["timeline"] = r.final_timeline()
        if not r.told:
            extra["cached_tokens"] = r.cached
            r.told = True
        stop = new[-1] if code in (EOS, STOP) and new else None
        deltas.append(Delta(id=r.id, tokens=new, finish=finish, stop_token=stop, **extra))

    # ---- for the keeper of the core ---------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Some request, result, acknowledgement or news is still due."""
        return bool(self._requests or self._flights or self._copies or self._news)

    def stats(self) -> CoreStats:
        pool = self._groups.pool
        waiting = len(self._requests) - len(self._running)
        return self._counters.snapshot(waiting, len(self._running), pool.total, pool.total - pool.free)

    def reset_prefix_cache(self) -> bool:
        """Empties the prefix cache. False when requests are running: those keep their pages until
        they end, but offer none of them any more."""
        self._groups.forget(self._running)
        return not self._running


def _drafts_elsewhere(cache: CachePlan, limits: Limits) -> bool:
    """Whether drafts are the device's own matter, or impossible: recurrent state has a place for each."""
    return bool(limits.drafts) or limits.stages > 1 or any(group.kind == "state" for group in cache.groups)


def _order(r: RequestState) -> tuple[int, float, int]:
    return r.order
