"""The two protocols at the device border: Executor (transport) and Runner (a worker's inside)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
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


class Executor(Protocol):
    """Places runners and carries messages. Plans are executed in the order of `submit`."""

    def start(self, progress: Progress) -> Ready: ...

    def submit(self, plan: StepPlan) -> Future[StepResult]:
        """Never blocks. A masked plan launches F only; S waits for `mask`. The F of a later plan
        starts only once the S of every earlier plan is launched."""

    def mask(self, masks: StepMasks) -> None:
        """Launches S of that plan."""

    def call(self, name: str, args: dict[str, Any]) -> list[Any]:
        """Rare control, one answer a worker; the caller has drained the loop."""

    def close(self) -> None: ...
