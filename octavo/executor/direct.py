"""Runs a runner in the caller's own thread: for a device that works by itself, so that launching is all
there is to do and a thread in between would only add its hand-overs. Knows no transport."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from octavo.core.errors import EngineError, Fault
from octavo.core.facts import Ready
from octavo.core.messages import StepMasks, StepPlan, StepResult
from octavo.core.runner import Progress, Runner
from octavo.executor.inline import as_engine_error
from octavo.executor.lane import Lane, Step


class DirectExecutor:
    """`submit` launches; waiting for a result delivers everything before it. After a failed step every
    later one fails with the same error."""

    def __init__(self, make_runner: Callable[[], Runner]) -> None:
        self._make_runner = make_runner
        self._runner: Runner | None = None
        self._lane: Lane
        self._error: EngineError | None = None

    def start(self, progress: Progress) -> Ready:
        try:
            self._runner = self._make_runner()
            self._lane = Lane(self._runner)
            return self._runner.start(progress)
        except Exception as error:
            raise as_engine_error(error) from error

    def submit(self, plan: StepPlan) -> Future[StepResult]:
        due = _Due(self._deliver)
        self._lane.submit(Step(plan, due.set_result))
        self._launch()
        return due

    def mask(self, masks: StepMasks) -> None:
        self._lane.mask(masks)
        self._launch()

    def call(self, name: str, args: dict[str, Any]) -> list[Any]:
        assert self._runner is not None, "start comes first"
        try:
            return [self._runner.call(name, args)]
        except Exception as error:
            raise as_engine_error(error) from error

    def close(self) -> None:
        self._error = self._error or Fault("the executor was closed")
        if self._runner is not None:
            self._runner.close()

    def _launch(self) -> None:
        while self._error is None:
            try:
                if not self._lane.launch():
                    return
            except Exception as error:
                self._error = as_engine_error(error)

    def _deliver(self) -> None:
        """Hands over the oldest result, waiting for the device; what was launched before an error counts."""
        if not self._lane.flying:
            raise self._error or Fault("the result of a plan whose masks have not come")
        try:
            self._lane.wait()
        except Exception as error:
            self._error = self._error or as_engine_error(error)
            raise self._error from error
        self._launch()


class _Due(Future[StepResult]):
    """A result that is fetched when it is asked for."""

    def __init__(self, deliver: Callable[[], None]) -> None:
        super().__init__()
        self._deliver = deliver

    def result(self, timeout: float | None = None) -> StepResult:
        while not self.done():
            self._deliver()
        return super().result(timeout)
