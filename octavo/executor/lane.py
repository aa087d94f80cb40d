"""The order of launches in one worker: F of a plan, its S, then the next F; results as they come.

Knows nothing of threads or transports.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from octavo.core.messages import StepMasks, StepPlan, StepResult
from octavo.core.runner import Pending, Runner


class Step(NamedTuple):
    """A submitted plan and where its result goes."""

    plan: StepPlan
    deliver: Callable[[StepResult], None]


class Lane:
    """Launches what can be launched and delivers what is finished; never waits by itself.

    A masked plan's F starts at once, its S with the masks; nothing behind it starts before.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._waiting: deque[Step] = deque()
        self._gated: Step | None = None  # F launched, S waits for masks
        self._masks: dict[int, StepMasks] = {}
        self._flying: deque[tuple[Step, Pending]] = deque()

    @property
    def flying(self) -> bool:
        """Some launched step has not been delivered."""
        return bool(self._flying)

    def submit(self, step: Step) -> None:
        self._waiting.append(step)

    def mask(self, masks: StepMasks) -> None:
        self._masks[masks.plan_id] = masks

    def launch(self) -> bool:
        """Launches one F or S; False when nothing can be launched now."""
        if self._gated is not None:
            masks = self._masks.pop(self._gated.plan.id, None)
            if masks is None:
                return False
            step, self._gated = self._gated, None
            self._flying.append((step, self._runner.sample(masks)))
            return True
        if not self._waiting:
            return False
        step = self._waiting.popleft()
        self._runner.forward(step.plan)
        if step.plan.masked:
            self._gated = step
        else:
            self._flying.append((step, self._runner.sample(None)))
        return True

    def deliver(self) -> bool:
        """Hands over the oldest result if it is there."""
        if not self._flying or not self._flying[0][1].ready():
            return False
        self.wait()
        return True

    def wait(self) -> None:
        """Hands over the oldest result, there or not; something must be in flight."""
        step, pending = self._flying.popleft()
        step.deliver(pending.result())
