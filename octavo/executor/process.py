"""A runner in a worker process of its own: plans go down and results come up a socket, as msgpack.

`python -m octavo.executor.process FD` is the worker; it ends with its parent, whose end of the
socket closes whatever kills it. Knows nothing of models: the runner's factory is given by name.
"""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from itertools import count
from typing import Any

import msgspec

from octavo.core.errors import ArtefactError, EngineDead, EngineError, Fault, NotFound, Unsupported, UserError
from octavo.core.facts import Ready
from octavo.core.mail import Call, Failed, Progress, Reply, Started, Stop
from octavo.core.messages import StepMasks, StepPlan, StepResult
from octavo.core.runner import Progress as OnProgress
from octavo.core.runner import Runner
from octavo.core.wire import Codec
from octavo.executor.channel import Channel
from octavo.executor.inline import InlineExecutor, as_engine_error

CLOSE_S = 10.0  # how long a worker may take to say goodbye


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """The first letter: "module:function", called with the configuration, makes the runner."""

    factory: str
    config: dict[str, Any]


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    plan: StepPlan


class Mask(msgspec.Struct, frozen=True, tag="mask"):
    masks: StepMasks


class Result(msgspec.Struct, frozen=True, tag="result"):
    result: StepResult


ToWorker = Begin | Submit | Mask | Call | Stop
FromWorker = Started | Progress | Result | Reply | Failed


class ProcessExecutor:
    """`factory` names the function that makes the runner, `config` (JSON-able) is its argument.

    A worker that dies fails every open step with EngineDead; an error it reports arrives as the
    class it was there.
    """

    def __init__(self, factory: str, config: dict[str, Any]) -> None:
        self._begin = Begin(factory, config)
        self._down: Codec[ToWorker] = Codec(ToWorker)
        self._up: Codec[FromWorker] = Codec(FromWorker)
        self._ready: Future[Ready] = Future()
        self._lock = threading.Lock()  # guards what follows: callers and the reader
        self._open: deque[Future[StepResult]] = deque()
        self._calls: dict[int, Future[Any]] = {}
        self._error: EngineError | None = None
        self._call_ids = count()
        self._progress: OnProgress
        self._worker: subprocess.Popen[bytes]
        self._channel: Channel
        self._reader: threading.Thread

    @property
    def pid(self) -> int:
        return self._worker.pid

    def start(self, progress: OnProgress) -> Ready:
        self._progress = progress
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "octavo.executor.process", str(theirs.fileno())]
            self._worker = subprocess.Popen(
                command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, start_new_session=True
            )
        self._channel = Channel(ours)
        self._reader = threading.Thread(target=self._read, name="octavo-worker", daemon=True)
        self._reader.start()
        self._send(self._begin)
        try:
            return self._ready.result()
        except BaseException:
            self.close()
            raise

    def submit(self, plan: StepPlan) -> Future[StepResult]:
        future: Future[StepResult] = Future()
        with self._lock:
            if self._error is not None:
                future.set_exception(self._error)
                return future
            self._open.append(future)
        self._send(Submit(plan))
        return future

    def mask(self, masks: StepMasks) -> None:
        self._send(Mask(masks))

    def call(self, name: str, args: dict[str, Any]) -> list[Any]:
        future: Future[Any] = Future()
        with self._lock:
            if self._error is not None:
                raise self._error
            call_id = next(self._call_ids)
            self._calls[call_id] = future
        self._send(Call(call_id, name, args))
        return [future.result()]

    def close(self) -> None:
        """Ends the worker, by force when it does not go by itself."""
        self._send(Stop())
        try:
            self._worker.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._worker.kill()
            self._worker.wait()
        self._reader.join()
        self._channel.close()

    def _send(self, letter: ToWorker) -> None:
        self._channel.send(self._down.encode(letter))

    # ---- in the reader's thread -------------------------------------------------------------

    def _read(self) -> None:
        error: EngineError
        try:
            while (frame := self._channel.receive()) is not None:
                self._take(self._up.decode(frame))
            error = EngineDead("the worker process ended", hint="its log says why")
        except Exception as broken:
            error = as_engine_error(broken)
        self._fail(error)

    def _take(self, letter: FromWorker) -> None:
        if isinstance(letter, Result):
            with self._lock:
                future = self._open.popleft()
            future.set_result(letter.result)
        elif isinstance(letter, Progress):
            self._progress(letter.stage, letter.share)
        elif isinstance(letter, Started):
            self._ready.set_result(letter.ready)
        elif isinstance(letter, Reply):
            with self._lock:
                call = self._calls.pop(letter.call_id)
            if letter.error is None:
                call.set_result(letter.value)
            else:
                call.set_exception(_raised(letter.error))
        else:
            self._fail(_raised(letter))

    def _fail(self, error: EngineError) -> None:
        with self._lock:
            self._error = self._error or error
            waiting: list[Future[Any]] = [*self._open, *self._calls.values()]
            self._open.clear()
            self._calls.clear()
        if not self._ready.done():
            waiting.append(self._ready)
        for future in waiting:
            future.set_exception(self._error)


def _raised(letter: Failed) -> EngineError:
    kinds = {kind.__name__: kind for kind in (UserError, NotFound, Unsupported, ArtefactError, EngineDead)}
    return kinds.get(letter.kind, Fault)(letter.message, hint=letter.hint, field=letter.field)


# ---- the worker's side ----------------------------------------------------------------------


class Worker:
    """Reads letters in the main thread; the runner has its own, inside an InlineExecutor."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._down: Codec[ToWorker] = Codec(ToWorker)
        self._up: Codec[FromWorker] = Codec(FromWorker)
        self._executor: InlineExecutor

    def serve(self) -> None:
        """Returns after Stop; ends the process at once when the parent is gone."""
        while (frame := self._channel.receive()) is not None:
            letter = self._down.decode(frame)
            if isinstance(letter, Stop):
                self._executor.close()
                return
            self._take(letter)
        os._exit(0)  # not waiting for a step that nobody wants any more

    def _take(self, letter: Begin | Submit | Mask | Call) -> None:
        if isinstance(letter, Submit):
            self._executor.submit(letter.plan).add_done_callback(self._done)
        elif isinstance(letter, Mask):
            self._executor.mask(letter.masks)
        elif isinstance(letter, Call):
            self._send(self._call(letter))
        else:
            self._begin(letter)

    def _begin(self, letter: Begin) -> None:
        self._executor = InlineExecutor(lambda: _factory(letter.factory)(letter.config))
        try:
            ready = self._executor.start(lambda stage, share: self._send(Progress(stage, share)))
        except EngineError as error:
            self._send(_failed(error))
        else:
            self._send(Started(ready))

    def _call(self, letter: Call) -> Reply:
        try:
            return Reply(letter.call_id, self._executor.call(letter.name, letter.args)[0])
        except EngineError as error:
            return Reply(letter.call_id, error=_failed(error))

    def _done(self, future: Future[StepResult]) -> None:
        error = future.exception()
        if isinstance(error, EngineError):
            self._send(_failed(error))
        else:
            self._send(Result(future.result()))

    def _send(self, letter: FromWorker) -> None:
        self._channel.send(self._up.encode(letter))


def _failed(error: EngineError) -> Failed:
    return Failed(type(error).__name__, error.message, error.hint, error.field)


def _factory(name: str) -> Callable[[dict[str, Any]], Runner]:
    module, _, function = name.partition(":")
    made: Callable[[dict[str, Any]], Runner] = vars(importlib.import_module(module))[function]
    return made


def main() -> None:
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    try:
        Worker(channel).serve()
    finally:
        channel.close()


if __name__ == "__main__":
    main()
