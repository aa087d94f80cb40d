"""Executor: carries plans to the runners and results back."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, Protocol

from octavo.core.facts import Ready
from octavo.core.messages import StepMasks, StepPlan, StepResult
from octavo.core.runner import Progress


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
