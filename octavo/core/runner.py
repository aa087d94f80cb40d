"""The inside of a worker, as its executor sees it. Implemented by runner/, driven by executor/."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from octavo.core.facts import Ready
from octavo.core.messages import StepMasks, StepPlan, StepResult

Progress = Callable[[str, float], None]  # stage, done share in [0, 1]


class Pending(Protocol):
    """A launched step. `result` waits for the device; on a CPU it is there at once."""

    def ready(self) -> bool: ...
    def result(self) -> StepResult: ...


class Runner(Protocol):
    """Owns device memory. Every call comes from one thread, in plan order."""

    def start(self, progress: Progress) -> Ready: ...

    def forward(self, plan: StepPlan) -> None:
        """Launches F: slots, inputs, model up to the logits."""

    def sample(self, masks: StepMasks | None) -> Pending:
        """Launches S of the plan last given to `forward`: stages, sampling, verification, commit."""

    def call(self, name: str, args: dict[str, Any]) -> Any: ...
    def close(self) -> None: ...
