"""What a plan holds, and what a result changes."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from octavo.core.errors import UserError
from octavo.core.events import StepStats
from octavo.core.facts import CacheGroup
from octavo.core.messages import EOS, LENGTH, NO_MEMORY, STOP
from octavo.core.request import EngineRequest, Finish, Pooling, PositionLogprobs, Sampling
from tests.unit.scheduler.steps import Driver, request, scheduler

# ---- the life of a request -----------------------------------------------------------------------


def test_prompt_then_decodes() -> None:
    d = Driver(scheduler(budget=4))
    d.scheduler.add(request("a", prompt=6, output=3))
    assert d.step() == []
    (plan,) = d.plans
    assert plan.admit[0].start == 0 and plan.admit[0].prompt == 6 and len(plan.admit[0].tokens) == 6
    deltas = d.step()
    assert deltas[0].tokens == (7,) and deltas[0].cached_tokens == 0 and deltas[0].finish is None
    assert d.step()[0].cached_tokens is None
    d.say[d.slot("a")] = (7,), LENGTH
    (last,) = d.step()
    assert last.finish == Finish.LENGTH and last.timeline is not None and last.stop_token is None
    assert not d.scheduler.busy and d.plan() is None
    assert d.scheduler.stats().blocks_used == 0


@pytest.mark.parametrize(("code", "stop"), [(EOS, 5), (STOP, 5), (LENGTH, None)])
def test_ends_as_the_device_says(code: int, stop: int | None) -> None:
    d = Driver(scheduler())
    d.scheduler.add(request("a"))
    d.say[0] = (5,), code
    (delta,) = d.step()
    assert delta.tokens == (5,) and delta.stop_token == stop
    assert delta.finish == (Finish.LENGTH if code == LENGTH else Finish.STOP)


def test_a_row_without_memory_ends_alone_and_is_not_to_blame() -> None:
    d = Driver(scheduler(depth=2))
    d.scheduler.add(request("a"))
    d.scheduler.add(request("b"))
    first, second = d.plan(), d.plan()
    assert first is not None and second is not None
    d.say[0] = (), NO_MEMORY
    lost, going = d.apply(first)
    if lost.id != "a":
        lost, going = going, lost
    assert lost.finish == Finish.ERROR and not lost.refused and "gpu_memory_utilization" in str(lost.error)
    assert going.id == "b" and going.tokens == (7,)
    assert [(delta.id, delta.tokens) for delta in d.apply(second)] == [("b", (7,))]
    d.scheduler.add(request("c"))
    assert {delta.id for _ in range(2) for delta in d.step()} == {"b", "c"}
    assert d.plans[-1].release == () and 0 in d.plans[-2].release


@pytest.mark.parametrize("gone", [False, True])
def test_who_shares_pages_that_were_never_written_ends_too(gone: bool) -> None:
    """`gone`: the row that was to write them is aborted before its result comes."""
    d = Driver(scheduler(depth=2, budget=64, rows=8))
    d.scheduler.add(request("old", prompt=9, first=5000))
    d.step()
    d.scheduler.add(request("a", prompt=9, first=9000))
    d.scheduler.add(request("b", prompt=10, first=9000))
    d.scheduler.add(request("other", prompt=9, first=7000))
    first = d.plan()
    d.scheduler.add(request("c", prompt=12, first=9000))
    second = d.plan()
    assert first is not None and second is not None
    assert [a.start for a in (*first.admit, *second.admit)] == [0, 8, 0, 8]
    d.say[first.admit[0].slot] = (), NO_MEMORY
    if gone:
        d.scheduler.abort(["a"])
    told = {delta.id: delta for delta in d.apply(first)}
    assert {id for id, delta in told.items() if delta.finish is Finish.ERROR} == {"b", "c"} | (
        set() if gone else {"a"}
    )
    assert told["other"].tokens == told["old"].tokens == (7,)
    assert {delta.id for delta in d.apply(second)} == {"old", "other"}
    d.scheduler.add(request("again", prompt=9, first=9000))
    plan = d.plan()
    assert plan is not None and plan.admit[0].start == 0, "the prefix cache has forgotten them"


@pytest.mark.parametrize("depth", [1, 2])
def test_the_time_of_steps_is_summed_and_a_pause_without_requests_is_not_idle(depth: int) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1
        return now[0]

    d = Driver(scheduler(depth=depth, clock=clock))
    brought = StepStats(forward_s=0.25, sample_s=0.125, device_s=2.0, idle_s=8.0)
    for name in ("a", "b"):  # b comes after a pause: only its second step counts
        d.scheduler.add(request(name, output=2))
        first = d.plan()
        second = d.plan() if depth == 2 else None
        d.apply(first, stats=brought)
        second = second or d.plan()
        assert second is not None
        d.say[d.slot(name)] = (7,), LENGTH
        d.apply(second, stats=brought)
        assert not d.scheduler.busy
    seen = d.scheduler.stats()
    assert (seen.steps, seen.forward_s, seen.sample_s, seen.device_s) == (4, 1.0, 0.5, 8.0)
    assert seen.idle_s == 16.0 and seen.host_s == 8.0


def test_the_slot_is_released_with_the_next_plan_and_reused_last() -> None:
    d = Driver(scheduler(rows=2))
    d.scheduler.add(request("a"))
    d.say[0] = (5,), EOS
    d.step()
    d.scheduler.add(request("b"))
    plan = d.plan()
    assert plan is not None and plan.release == (0,) and plan.admit[0].slot == 1


def test_timeline() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1
        return now[0]

    d = Driver(scheduler(clock=clock))
    d.scheduler.add(request("a", output=2, arrived=0.5))
    d.step()
    d.say[0] = (7,), LENGTH
    times = d.step()[0].timeline
    assert times is not None and times.arrived == 0.5
    assert 0 < times.queued < times.scheduled < times.first_token < times.last_token


def test_an_id_in_use_is_refused() -> None:
    made = scheduler()
    made.add(request("a"))
    with pytest.raises(UserError, match="already in use") as caught:
        made.add(request("a"))
    assert caught.value.field == "id"


def test_a_prompt_beyond_the_limit_is_an_error_and_at_the_limit_has_no_room() -> None:
    made = scheduler(longest=10)
    made.add(request("long", prompt=11))
    made.add(request("full", prompt=10))
    assert made.busy
    assert made.plan() is None
    found = {d.id: d for d in made.news()}
    assert found["long"].finish == Finish.ERROR and "11 tokens" in (found["long"].error or "")
    assert found["full"].finish == Finish.LENGTH and not made.busy


def test_max_tokens_is_cut_to_the_limit_and_to_the_pool() -> None:
    d = Driver(scheduler(longest=10))
    d.scheduler.add(request("a", prompt=6, output=50))
    plan = d.plan()
    assert plan is not None and plan.admit[0].sampling is not None and plan.admit[0].sampling.max_tokens == 4
    d = Driver(scheduler(pages=4))  # three pages of 4
    d.scheduler.add(request("a", prompt=6, output=50))
    plan = d.plan()
    assert plan is not None and plan.admit[0].sampling is not None and plan.admit[0].sampling.max_tokens == 6


# ---- scoring, pooling, replay --------------------------------------------------------------------


def test_no_tokens_wanted() -> None:
    d = Driver(scheduler(budget=4))
    d.scheduler.add(request("a", prompt=6, output=0))
    assert d.step() == []
    plan = d.plan()
    assert [w.logits for w in d.work(plan).values()] == [0]
    (delta,) = d.apply(plan)
    assert delta.finish == Finish.LENGTH and delta.tokens == () and delta.cached_tokens == 0


def test_pooling_brings_a_vector() -> None:
    d = Driver(scheduler())
    d.scheduler.add(request("a", sampling=None, pooling=Pooling()))
    vector = struct.pack("<2f", 1.0, 2.0)
    (delta,) = d.step(vectors=((0, vector),))
    assert delta.finish == Finish.STOP and delta.vector == vector


def scores(first: int, count: int) -> tuple[PositionLogprobs, ...]:
    return tuple(PositionLogprobs(n, -1.0, 1) for n in range(first, first + count))


def test_prompt_logprobs_cover_every_position_once() -> None:
    d = Driver(scheduler(budget=4))
    d.scheduler.add(request("a", prompt=10, output=2, sampling=Sampling(max_tokens=2, prompt_logprobs=1)))
    seen: list[PositionLogprobs] = []
    for count, first in ((4, 1), (4, 5), (2, 9)):
        plan = d.plan()
        (w,) = d.work(plan).values()
        assert w.count == w.logits == count
        d.say[0] = ((7,), 0) if first == 9 else ((), 0)
        scored = scores(first, min(count, 10 - first))
        (delta,) = d.apply(plan, prompt_logprobs=((0, first, scored),))
        seen += delta.prompt_logprobs
    assert seen == list(scores(1, 9))
    assert next(iter(d.work(d.plan()).values())).logits == 1


def test_scored_prompts_do_not_read_the_cache() -> None:
    d = Driver(scheduler())
    for name, fields in (
        ("a", {}),
        ("b", {"sampling": Sampling(max_tokens=1, prompt_logprobs=0)}),
        ("c", {"skip_cache": True}),
        ("d", {}),
    ):
        d.scheduler.add(request(name, prompt=9, first=50, **fields))
        d.say = {slot: ((5,), EOS) for slot in range(4)}
        (delta,) = d.step()
        assert delta.cached_tokens == (8 if name == "d" else 0)
    stats = d.scheduler.stats()
    assert (stats.prefix_queries, stats.prefix_hits) == (18, 8)


def test_replay_counts_output_and_never_sends_it_again() -> None:
    d = Driver(scheduler())
    d.scheduler.add(
        EngineRequest(id="a", tokens=(1, 2, 3), output=(4, 5), seed=9, sampling=Sampling(max_tokens=3))
    )
    plan = d.plan()
    assert plan is not None and plan.admit[0].tokens == (1, 2, 3, 4, 5) and plan.admit[0].prompt == 3
    d.say[0] = (7,), LENGTH
    (delta,) = d.apply(plan)
    assert delta.tokens == (7,) and delta.finish == Finish.LENGTH


# ---- filling a step ------------------------------------------------------------------------------


def test_decodes_come_before_chunks_and_one_more_is_admitted() -> None:
    d = Driver(scheduler(budget=8, rows=4))
    d.scheduler.add(request("decoding", prompt=3))
    d.step()
    d.scheduler.add(request("long", prompt=100))
    d.step()
    d.scheduler.add(request("late", prompt=100))
    plan = d.plan()
    work = d.work(plan)
    counts = {name: work[d.slot(name)].count for name in ("decoding", "long", "late")}
    assert counts["decoding"] == 1 and counts["late"] >= 1 and sum(counts.values()) == 8
    assert counts["long"] > counts["late"]


def test_chunk_cap() -> None:
    d = Driver(scheduler(budget=16, chunk_cap=5))
    for name in "abc":
        d.scheduler.add(request(name, prompt=40))
    assert sorted(w.count for w in d.work(d.plan()).values()) == [5, 5, 5]


def test_short_requests_do_not_starve_a_long_one() -> None:
    """A stream of short requests never ends; the long one is done in the time its share allows."""
    for policy in ("fcfs", "priority"):
        d = Driver(scheduler(budget=16, rows=4, policy=policy))
        d.scheduler.add(request("long", prompt=200, output=1))
        for n in range(100):
            d.scheduler.add(request(f"short{n}", prompt=8, output=1))
            plan = d.plan()
            d.say = {w.slot: ((5,), LENGTH) for w in d.work(plan).values() if w.logits}
            if any(delta.id == "long" for delta in d.apply(plan)):
                break
        assert n < 25, f"{policy}: 200 positions at 12 a step"


def test_a_large_request_at_the_head_is_not_overtaken() -> None:
    d = Driver(scheduler(pages=11, rows=4, budget=64))
    d.scheduler.add(request("running", prompt=20, output=4))
    d.step()
    d.scheduler.add(request("large", prompt=30))
    for n in range(3):
        d.scheduler.add(request(f"small{n}", prompt=2, output=1))
    plan = d.plan()
    assert plan is not None and not plan.admit, "large has to wait, and so has everybody behind it"


def test_priority_decides_who_is_admitted() -> None:
    d = Driver(scheduler(rows=1, policy="priority"))
    d.scheduler.add(request("low", priority=5))
    d.scheduler.add(request("high", priority=-5))
    plan = d.plan()
    assert plan is not None and d.slot("high") == 0 and len(plan.admit) == 1


def test_patient_requests_give_way() -> None:
    """To be admitted, and where memory is short: the patient row is computed again later."""
    d = Driver(scheduler(rows=1))
    d.scheduler.add(request("batch", patient=True))
    d.scheduler.add(request("live"))
    d.plan()
    assert d.slot("live") == 0
    d = Driver(scheduler(pages=9, rows=2, budget=64))
    d.scheduler.add(request("batch", prompt=12, output=20, patient=True))
    d.step()
    d.scheduler.add(request("live", prompt=12, output=20))
    for _ in range(8):
        d.step()
    assert d.slot("live") >= 0 and d.slot("batch") == -1 and d.scheduler.stats().preemptions == 1


class NotYet:
    """A guest that is ready for everybody but one."""

    def __init__(self) -> None:
        self.blocked = {"a"}
        self.inside: list[str] = []

    def ready(self, asked: EngineRequest) -> bool:
        return asked.id not in self.blocked

    def admit(self, asked: EngineRequest) -> None:
        self.inside.append(asked.id)

    def leave(self, asked: EngineRequest) -> None:
        self.inside.remove(asked.id)


def test_a_guest_can_hold_one_request_back_without_blocking_the_queue() -> None:
    guest = NotYet()
    d = Driver(scheduler(guests=[guest]))
    for name in "ab":
        d.scheduler.add(request(name))
    plan = d.plan()
    assert plan is not None and len(plan.admit) == 1 and guest.inside == ["b"]
    d.apply(plan)
    guest.blocked.clear()
    d.step()
    assert guest.inside == ["b", "a"]
    d.scheduler.abort(["a", "b"])
    assert guest.inside == []


# ---- preemption and abort ------------------------------------------------------------------------


def pressed(depth: int = 1) -> Driver:
    """Two rows of 8 tokens and a pool that is just full."""
    d = Driver(scheduler(pages=5, rows=4, budget=64, depth=depth))
    d.scheduler.add(request("first", prompt=8, output=5))
    d.scheduler.add(request("second", prompt=7, output=5))
    return d


def test_the_latest_row_makes_room() -> None:
    d = pressed()
    d.step()  # first: 8 of 8 positions, second: 7 of 8
    plan = d.plan()
    assert plan is not None and set(d.work(plan)) == {d.slot("first")}
    assert plan.release == (1,) and d.slot("second") == -1
    assert d.scheduler.stats().preemptions == 1
    d.apply(plan)
    assert d.scheduler.stats().waiting == 1


def test_nobody_returns_while_a_result_is_due_and_the_queue_goes_on() -> None:
    d = pressed(depth=2)
    first = d.plan()
    second = d.plan()  # "second" is thrown out with its first sample in flight
    assert second is not None and second.release == (1,)
    d.scheduler.abort(["first"])
    d.scheduler.add(request("third", prompt=3))
    third = d.plan()
    assert third is not None and [len(a.tokens) for a in third.admit] == [3], "the late row does not block"
    deltas = d.apply(first)
    assert {delta.id for delta in deltas} >= {"first", "second"}
    fourth = d.plan()
    assert fourth is not None and [len(a.tokens) for a in fourth.admit] == [8], (
        "7 of its prompt and 1 sampled"
    )


def test_abort_frees_pages_at_once_and_says_so_once() -> None:
    d = Driver(scheduler(depth=2))
    d.scheduler.add(request("a", prompt=9))
    d.scheduler.add(request("waiting", prompt=9))
    first, second = d.plan(), d.plan()
    d.scheduler.abort(["a", "waiting", "unknown"])
    assert d.scheduler.stats().blocks_used == 0
    deltas = d.apply(first)
    assert sorted((x.id, x.finish) for x in deltas) == [("a", Finish.ABORT), ("waiting", Finish.ABORT)]
    assert d.apply(second) == [] and not d.scheduler.busy


def test_an_idle_abort_is_news() -> None:
    d = Driver(scheduler())
    d.scheduler.add(request("a"))
    d.scheduler.abort(["a"])
    assert d.scheduler.busy and d.plan() is None
    assert [delta.finish for delta in d.scheduler.news()] == [Finish.ABORT]
    assert not d.scheduler.busy


# ---- prefix cache --------------------------------------------------------------------------------


def test_a_second_turn_finds_prompt_and_answer() -> None:
    d = Driver(scheduler(budget=64))
    d.scheduler.add(request("a", prompt=6, output=4, first=50))
    for code in (0, 0, 0, LENGTH):
        d.say[0] = (7,), code
        d.step()
    tokens = (*range(50, 56), 7, 7, 7, 7, 8)
    d.scheduler.add(EngineRequest(id="b", tokens=tokens, seed=1, sampling=Sampling(max_tokens=1)))
    (delta,) = d.step()
    assert delta.cached_tokens == 8, "9 positions had KV: the last token never did"


def test_reset() -> None:
    d = Driver(scheduler(budget=64))
    d.scheduler.add(request("a", prompt=20, first=50))
    d.step()
    assert d.scheduler.reset_prefix_cache() is False
    d.scheduler.add(request("b", prompt=20, first=50))
    deltas = d.step()
    assert [x.cached_tokens for x in deltas if x.id == "b"] == [0]
    for _ in range(4):
        d.step()  # a's later blocks must not come back
    d.scheduler.abort(["a", "b"])
    d.scheduler.news()
    assert d.scheduler.reset_prefix_cache() is True
    assert not d.scheduler._groups.pool._names


def test_plan_cost_does_not_depend_on_the_queue() -> None:
    """Counted, not timed: a plan looks at one waiting request however many there are."""
    looked = 0

    class Counting(NotYet):
        def ready(self, asked: EngineRequest) -> bool:
            nonlocal looked
            looked += 1
            return True

    d = Driver(scheduler(pages=8, rows=4, budget=64, guests=[Counting()]))
    d.scheduler.add(request("running", prompt=20))
    d.step()
    for n in range(1000):
        d.scheduler.add(request(f"w{n}", prompt=20))
    looked = 0
    d.step()
    assert looked == 1


# ---- drafts, bounds ------------------------------------------------------------------------------


def test_rejected_drafts_are_taken_back() -> None:
    d = Driver(scheduler(drafts=3, depth=2))
    d.scheduler.add(request("a", prompt=6, output=20))
    d.step()
    first, second = d.plan(), d.plan()
    assert [tuple(w) for p in (first, second) for w in d.work(p).values()] == [
        (0, 6, 4, 3, 4),
        (0, 10, 4, 3, 4),
    ]
    d.say[0] = (7, 7), 0
    assert d.apply(first)[0].tokens == (7, 7)
    (w,) = d.work(d.plan()).values()
    assert w.start == 12, "one draft of three was accepted: two positions less"


def test_drafts_never_run_beyond_the_end() -> None:
    d = Driver(scheduler(drafts=3, depth=3))
    d.scheduler.add(request("a", prompt=6, output=6))
    d.step()
    works = [tuple(w) for _ in range(3) for w in d.work(d.plan()).values()]
    assert works == [(0, 6, 4, 3, 4), (0, 10, 1, 0, 1)], "five tokens are left: 4 + 1, then nothing"


def test_the_same_table_is_not_sent_twice() -> None:
    d = Driver(scheduler())
    for name in "ab":
        d.scheduler.add(request(name, prompt=4, output=9))
    d.step()
    d.step()
    plan = d.plan()
    assert plan is not None and plan.same and plan.work == b""
    d.apply(plan)
    d.scheduler.abort(["b"])
    plan = d.plan()
    assert plan is not None and not plan.same and len(d.work(plan)) == 1


def test_window_pages_are_given_back_by_what_is_settled() -> None:
    window = CacheGroup("window", "window", 4, window=6)
    d = Driver(scheduler(window, budget=8, depth=2))
    d.scheduler.add(request("a", prompt=30))
    first, second = d.plan(), d.plan()
    assert d.scheduler.stats().blocks_used == 4
    d.apply(first)
    assert d.scheduler.stats().blocks_used == 4, "8 positions are settled: position 8 sees 3..8"
    d.apply(second)
    assert d.scheduler.stats().blocks_used == 2, "16 are settled: position 16 sees 11..16"


def extra_logprobs(count: int) -> Any:
    return ((0, scores(0, count)),)


def test_logprobs_travel_with_their_tokens() -> None:
    d = Driver(scheduler())
    d.scheduler.add(request("a"))
    d.step()
    (delta,) = d.step(logprobs=extra_logprobs(1))
    assert delta.tokens == (7,) and delta.logprobs == scores(0, 1)
