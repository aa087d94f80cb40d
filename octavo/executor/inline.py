"""Runs a runner in a thread of its own, so that planning overlaps with execution. Knows no transport."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from octavo.core.errors import EngineError, Fault
from octavo.core.facts import Ready
from octavo.core.messages import StepMasks, StepPlan, StepResult
from octavo.core.runner import Progress, Runner
from octavo.executor.lane import Lane, Step

POLL_S = 0.0002  # how often a device's unfinished step is looked at while messages may come
T = TypeVar("T")


class InlineExecutor:
    """The runner is made, used and closed in one thread.

    What the runner raises arrives as it is when it is an EngineError, as a Fault otherwise; after
    a failed step every later one fails with the same error.
    """

    def __init__(self, make_runner: Callable[[], Runner]) -> None:
        self._make_runner = make_runner
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._open: deque[Future[StepResult]] = deque()  # submitted, no result yet; the thread's own
        self._error: EngineError | None = None
        self._runner: Runner | None = None
        self._lane: Lane
        self._thread = threading.Thread(target=self._run, name="octavo-runner", daemon=True)

    def start(self, progress: Progress) -> Ready:
        self._thread.start()
        return self._ask(lambda: self._begin(progress))

    def submit(self, plan: StepPlan) -> Future[StepResult]:
        future: Future[StepResult] = Future()
        if self._error is not None:
            future.set_exception(self._error)
        else:
            self._inbox.put(lambda: self._accept(plan, future))
        return future

    def mask(self, masks: StepMasks) -> None:
        self._inbox.put(lambda: self._lane.mask(masks))

    def call(self, name: str, args: dict[str, Any]) -> list[Any]:
        return [self._ask(lambda: self._started().call(name, args))]

    def close(self) -> None:
        """Ends the thread after the step it is in; plans not yet run are failed."""
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join()

    # ---- in the thread ----------------------------------------------------------------------

    def _begin(self, progress: Progress) -> Ready:
        self._runner = self._make_runner()
        self._lane = Lane(self._runner)
        return self._runner.start(progress)

    def _started(self) -> Runner:
        assert self._runner is not None, "start comes first"
        return self._runner

    def _accept(self, plan: StepPlan, future: Future[StepResult]) -> None:
        if self._error is not None:
            future.set_exception(self._error)
            return
        self._open.append(future)
        self._lane.submit(Step(plan, lambda result: self._open.popleft().set_result(result)))

    def _run(self) -> None:
        while True:
            try:
                message = self._inbox.get(timeout=self._patience())
            except Empty:
                message = _nothing
            if message is None:
                break
            message()
            self._work()
        self._fail(Fault("the executor was closed"))
        if self._runner is not None:
            self._runner.close()

    def _patience(self) -> float | None:
        """Seconds to wait for a message: for ever when no launched step can finish meanwhile."""
        return POLL_S if self._runner is not None and self._error is None and self._lane.flying else None

    def _work(self) -> None:
        """Delivers what is finished and launches what can be, until a message or the device is awaited.
        What is not finished never holds up a launch."""
        if self._runner is None or self._error is not None:
            return
        try:
            while self._lane.deliver() or (self._inbox.empty() and self._lane.launch()):
                pass
        except Exception as error:
            self._fail(as_engine_error(error))

    def _fail(self, error: EngineError) -> None:
        self._error = self._error or error
        while self._open:
            self._open.popleft().set_exception(self._error)

    def _ask(self, answer: Callable[[], T]) -> T:
        """Runs something in the thread and waits for what it returns or raises."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(answer())
            except Exception as error:
                future.set_exception(as_engine_error(error))

        self._inbox.put(run)
        return future.result()


def as_engine_error(error: Exception) -> EngineError:
    """Errors of ours pass; anything else is a bug or a broken device."""
    if isinstance(error, EngineError):
        return error
    fault = Fault(f"the worker failed: {type(error).__name__}: {error}")
    fault.__cause__ = error
    return fault


def _nothing() -> None:
    """No message came in time: look at the device again."""
