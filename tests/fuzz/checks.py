"""What must hold of every plan, whatever comes out."""

from __future__ import annotations

from octavo.core.messages import StepPlan, StepResult, Work, unpack_work
from octavo.core.request import Delta, EngineRequest
from octavo.scheduler.flight import MaskedRow
from octavo.scheduler.scheduler import Scheduler
from tests.fakes import FakeRunner


class Checked:
    """A scheduler for the loop that looks at every plan before it goes out."""

    def __init__(self, scheduler: Scheduler, requests: dict[str, EngineRequest]) -> None:
        self._scheduler = scheduler
        self._requests = requests
        self._limits = scheduler.limits
        self._slots: dict[int, str] = {}
        self._table: list[Work] = []
        self._plans = 0
        self.same = 0

    def plan(self) -> StepPlan | None:
        plan = self._scheduler.plan()
        if plan is not None:
            self._check(plan)
            self._plans += 1
            if self._plans % 8 == 0:
                check_pages(self._scheduler)
        return plan

    def apply(self, result: StepResult) -> list[Delta]:
        deltas = self._scheduler.apply(result)
        for r in self._scheduler._running:
            assert r.pending >= 0 and (r.flights or not r.pending), "tokens pending that nothing brings"
            assert r.settled <= r.computed or r.flights, "more is settled than computed"
        return deltas

    def news(self) -> list[Delta]:
        return self._scheduler.news()

    def masked(self, plan_id: int) -> list[MaskedRow]:
        return self._scheduler.masked(plan_id)

    def _check(self, plan: StepPlan) -> None:
        limits = self._limits
        if plan.same:
            assert not plan.work
            self.same += 1
            work = [w._replace(start=w.start + w.count) for w in self._table]
        else:
            work = list(unpack_work(plan.work))
        self._table = work
        for slot in plan.release:
            del self._slots[slot]
        admitted = {a.slot for a in plan.admit}
        assert len(admitted) == len(plan.admit) and not admitted & self._slots.keys()
        by_slot = {r.slot: r for r in self._scheduler._running}
        self._slots.update({slot: by_slot[slot].id for slot in admitted})
        slots = [w.slot for w in work]
        assert len(set(slots)) == len(slots), "a row twice"
        assert set(slots) <= self._slots.keys(), "work without admission"
        assert not (set(plan.release) - admitted) & set(slots), "released and at work"
        assert sum(w.count for w in work) <= limits.budget, "over budget"
        assert len(work) <= limits.max_rows
        if not limits.drafts:
            assert sum(w.drafts + 1 for w in work if w.logits) <= limits.max_rows, "more samples than rows"
        for w in work:
            self._check_row(w)
        for a in plan.admit:
            request = self._requests[self._slots[a.slot]]
            assert a.tokens[: a.prompt] == request.tokens and a.seed == request.seed
            assert a.start < len(a.tokens), "nothing left to compute"
        if limits.stages > 1:
            rows = -(-(len(by_slot) + self._scheduler.stats().waiting + len(slots)) // limits.depth)
            assert len(work) <= max(1, rows), "rows are not shared out"

    def _check_row(self, w: Work) -> None:
        request = self._requests[self._slots[w.slot]]
        most = request.sampling.max_tokens if request.sampling is not None else 0
        end = min(len(request.tokens) + most, self._limits.max_model_len)
        assert w.count >= 1 and 0 <= w.logits <= w.count and w.drafts < w.count
        assert w.drafts <= (
            self._limits.drafts or (self._limits.max_rows if request.grammar is not None else 0)
        )
        assert w.start + w.count <= max(end, 1), "beyond the end"
        cap = self._limits.chunk_cap
        assert not cap or w.drafts or w.count <= cap, "over the chunk cap"


def check_pages(scheduler: Scheduler) -> None:
    """Every page is held as often as tables and copies say; free pages are all accounted for."""
    pool = scheduler._groups.pool
    held = [0] * len(pool.refs)
    for r in scheduler._running:
        for table in r.tables:
            for page in (*table.fixed, *table.ids):
                held[page] += 1
    for page in scheduler._copies.pages():
        held[page] += 1
    held[0] = 0
    assert held == pool.refs, "references do not match tables"
    blank, cached = set(pool._blank), set(pool._cached)
    assert len(blank) == len(pool._blank) and not blank & cached and 0 not in blank | cached
    assert blank | cached == {page for page in range(1, len(held)) if not held[page]}, "pages lost"
    for page, (group, key) in pool._names.items():
        assert pool._index[group][key] == page
        assert page not in blank
    assert sum(len(index) for index in pool._index) == len(pool._names)


def check_idle(scheduler: Scheduler, runner: FakeRunner | None) -> None:
    """Nothing is left behind when all is done."""
    check_pages(scheduler)
    pool = scheduler._groups.pool
    assert pool.free == pool.total and not any(pool.refs), "pages leaked"
    assert not scheduler._requests and not scheduler._running and not scheduler._copies
    assert not scheduler._parents and not scheduler._aside and not len(scheduler._queue)
    assert len(set(scheduler._slots)) == min(scheduler.limits.max_rows, len(scheduler._slots))
    assert len(scheduler._slots) == scheduler.limits.max_rows, "slots leaked"
    if runner is None:
        return  # the device is elsewhere
    assert set(runner.rows) <= set(scheduler._release), "the device holds rows nobody released"
    assert not runner.copying
