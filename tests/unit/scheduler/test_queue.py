"""The order of waiting requests."""

from __future__ import annotations

import random

from octavo.scheduler.queue import WaitingQueue
from octavo.scheduler.state import Limits, RequestState
from tests.unit.scheduler.steps import request

FCFS = Limits(1, 1, 100)


def state(sequence: int, *, limits: Limits = FCFS, priority: int = 0, arrived: float = 0.0) -> RequestState:
    asked = request("r", priority=priority, arrived=arrived)
    return RequestState.of(asked, limits, 100, sequence, 0.0)


def test_first_come_first_served_whatever_the_priority() -> None:
    queue = WaitingQueue()
    late, early, same = state(0, arrived=2.0), state(1, priority=9, arrived=1.0), state(2, arrived=2.0)
    for r in (late, same, early):
        queue.push(r)
    assert [queue.pop() for _ in range(3)] == [early, late, same]


def test_patient_requests_come_after_all_others() -> None:
    for policy in ("fcfs", "priority"):
        limits, queue = FCFS._replace(policy=policy), WaitingQueue()
        asked = [
            request("a", patient=True, priority=-(1 << 31), arrived=1.0),
            request("b", priority=(1 << 31) - 1, arrived=9.0),
            request("c", patient=True, priority=-(1 << 31), arrived=2.0),
        ]
        rows = [RequestState.of(one, limits, 100, n, 0.0) for n, one in enumerate(asked)]
        for r in rows:
            queue.push(r)
        assert [queue.pop().id for _ in rows] == ["b", "a", "c"]


def test_priority_first_then_arrival() -> None:
    limits = FCFS._replace(policy="priority")
    queue = WaitingQueue()
    rows = [
        state(n, limits=limits, priority=p, arrived=a) for n, (p, a) in enumerate([(1, 1), (0, 9), (0, 5)])
    ]
    for r in rows:
        queue.push(r)
    assert [queue.pop() for _ in range(3)] == [rows[2], rows[1], rows[0]]


def test_the_discarded_are_skipped_and_do_not_pile_up() -> None:
    queue = WaitingQueue()
    rows = [state(n) for n in range(5000)]
    for r in rows:
        queue.push(r)
    random.Random(1).shuffle(rows)
    for r in rows[:-3]:
        queue.discard(r)
        queue.discard(r)
    assert len(queue) == 3 and len(queue._heap) < 100
    kept = sorted(rows[-3:], key=lambda r: r.order)
    assert queue.peek() is kept[0]
    assert [queue.pop() for _ in range(3)] == kept
    assert queue.peek() is None and len(queue) == 0
