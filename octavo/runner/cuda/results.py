"""A launched step and how its results come to the host: copied into pinned memory behind the step.

The only place of this runner that waits for the device, and only for steps whose result is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.core.events import StepStats
from octavo.core.messages import StepResult
from octavo.runner.cuda.rows import Rows

_RING = 4  # more steps than are ever in flight
Answer = dict[str, Any]  # fields of StepResult beyond the tokens


class Results:
    """A ring of pinned [3, rows] int32: tokens, counts and finished of each row."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._ring = [torch.zeros(3, rows, dtype=torch.int32, pin_memory=self._cuda) for _ in range(_RING)]
        self._events = [_event() if self._cuda else None for _ in range(_RING)]
        self._next = 0

    def send(
        self,
        out: Tensor,
        rows: Rows | None,
        plan_id: int,
        stats: StepStats,
        rest: Callable[[NDArray[np.int32]], Answer],
        copied: tuple[int, ...],
    ) -> Launched:
        """Starts the copy of `out` [3, rows]; `rest` is asked for further fields once it is there."""
        i, self._next = self._next, (self._next + 1) % _RING
        if rows is not None:
            self._ring[i].copy_(out, non_blocking=True)
        if (event := self._events[i]) is not None:
            event.record()
        return Launched(self._ring[i].numpy(), event, rows, plan_id, stats, rest, copied)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]


class Launched:
    """core.runner.Pending on a device that works by itself."""

    def __init__(
        self,
        host: NDArray[np.int32],
        event: torch.cuda.Event | None,
        rows: Rows | None,
        plan_id: int,
        stats: StepStats,
        rest: Callable[[NDArray[np.int32]], Answer],
        copied: tuple[int, ...],
    ) -> None:
        self._host, self._event, self._rows = host, event, rows
        self._plan_id, self._stats, self._rest, self._copied = plan_id, stats, rest, copied

    def ready(self) -> bool:
        return self._event is None or bool(self._event.query())  # type: ignore[no-untyped-call]

    def result(self) -> StepResult:
        if self._event is not None:
            self._event.synchronize()
        if self._rows is None:
            return StepResult(plan_id=self._plan_id, copied=self._copied, stats=self._stats)
        rows = self._rows
        tokens, counts, finished = (rows.in_plan_order(part[: len(rows.slot)]) for part in self._host)
        return StepResult(
            plan_id=self._plan_id,
            tokens=tokens.tobytes(),
            counts=counts.tobytes(),
            finished=finished.astype(np.uint8).tobytes(),
            copied=self._copied,
            stats=self._stats,
            **self._rest(self._host),
        )
