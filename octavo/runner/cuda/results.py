"""A launched step and how its results come to the host: copied into pinned memory behind the step.

The only place of this runner that waits for the device, and only for steps whose result is asked for.
Also keeps the device's time: how long each step took there, and how long nothing ran before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.core.events import StepStats
from octavo.core.messages import NO_MEMORY, StepResult
from octavo.runner.cuda.rows import Rows

_RING = 4  # more steps than are ever in flight
Answer = dict[str, Any]  # fields of StepResult beyond the tokens
Read = Callable[[NDArray[np.int32]], Answer]


class Sent(NamedTuple):
    """What the host knows of a step when it is launched. `rest` is asked for further fields once the
    outcome is there, `lost` are the rows that found no memory."""

    plan_id: int
    rows: Rows | None
    stats: StepStats
    rest: Read
    copied: tuple[int, ...]
    lost: frozenset[int] = frozenset()


class Results:
    """A ring of pinned [3, rows] int32: tokens, counts and finished of each row."""

    def __init__(self, rows: int, device: torch.device) -> None:
        cuda = device.type == "cuda"
        self._ring = [_Place(rows, cuda) for _ in range(_RING)]
        self._next = 0
        self._before: _Place | None = None

    def begin(self) -> None:
        """A step is about to be launched."""
        self._ring[self._next].begin()

    def send(self, out: Tensor, sent: Sent) -> Launched:
        """The step is launched: starts the copy of `out` [3, rows]."""
        place = self._ring[self._next]
        self._next = (self._next + 1) % _RING
        if sent.rows is not None:
            place.tensor.copy_(out, non_blocking=True)
        place.end()
        before, self._before = self._before, place
        return Launched(place, before, sent)


class _Place:
    """Pinned memory for one outcome, and the events around its step."""

    def __init__(self, rows: int, cuda: bool) -> None:
        self.tensor = torch.zeros(3, rows, dtype=torch.int32, pin_memory=cuda)
        self._events = (_event(), _event()) if cuda else None

    def begin(self) -> None:
        if self._events is not None:
            self._events[0].record()

    def end(self) -> None:
        if self._events is not None:
            self._events[1].record()

    def ready(self) -> bool:
        return self._events is None or bool(self._events[1].query())  # type: ignore[no-untyped-call]

    def wait(self) -> NDArray[np.int32]:
        if self._events is not None:
            self._events[1].synchronize()
        return self.tensor.numpy()

    def times(self, before: _Place | None) -> tuple[float, float]:
        """Seconds the device took for this step, and between the step `before` and it."""
        if self._events is None:
            return 0.0, 0.0
        idle = 0.0
        if before is not None and before._events is not None:
            idle = max(0.0, before._events[1].elapsed_time(self._events[0]))
        return self._events[0].elapsed_time(self._events[1]) / 1e3, idle / 1e3


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


class Launched:
    """core.runner.Pending on a device that works by itself."""

    def __init__(self, place: _Place, before: _Place | None, sent: Sent) -> None:
        self._place, self._before, self._sent = place, before, sent

    def ready(self) -> bool:
        return self._place.ready()

    def result(self) -> StepResult:
        host, sent = self._place.wait(), self._sent
        device_s, idle_s = self._place.times(self._before)
        stats = msgspec.structs.replace(sent.stats, device_s=device_s, idle_s=idle_s)
        if sent.rows is None:
            return StepResult(plan_id=sent.plan_id, copied=sent.copied, stats=stats)
        rows = sent.rows
        for row in sent.lost:
            host[1, row], host[2, row] = 0, NO_MEMORY
        tokens, counts, finished = (rows.in_plan_order(part[: len(rows.slot)]) for part in host)
        return StepResult(
            plan_id=sent.plan_id,
            tokens=tokens.tobytes(),
            counts=counts.tobytes(),
            finished=finished.astype(np.uint8).tobytes(),
            copied=sent.copied,
            stats=stats,
            **sent.rest(host),
        )
