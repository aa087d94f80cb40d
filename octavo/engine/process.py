"""`python -m octavo.engine.process`: a core in a process of its own.

Owns the socket to the front and the order mail, step, news. Knows nothing of text or HTTP.
One thread does all of it: a step waits for the device anyway, and mail that comes meanwhile
is read before the next plan. Idle, the thread sleeps in poll and wakes at once on new mail.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Callable
from typing import Protocol

import zmq

from octavo.config.engine import EngineConfig
from octavo.core import heap
from octavo.core.errors import EngineError
from octavo.core.facts import ModelFiles
from octavo.core.mail import (
    Abort,
    Add,
    Call,
    Failed,
    News,
    Progress,
    Reply,
    Started,
    Stop,
    ToCore,
    ToFront,
)
from octavo.core.wire import Codec
from octavo.engine.core import EngineCore
from octavo.engine.lifecycle import Boot, die_with_parent, read_boot
from octavo.engine.place import make_executor
from octavo.executor.executor import Executor
from octavo.observe.log import configure

BEAT = 2.0  # seconds between two signs of life of an idle core
_STALL = 0.01  # seconds to wait for mail when a busy core could do nothing

MakeExecutor = Callable[[EngineConfig, ModelFiles], Executor]

_log = logging.getLogger(__name__)


class Post:
    """The core's end of the socket to its front."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.set_hwm(0)
        self._socket.connect(address)
        self._in: Codec[ToCore] = Codec(ToCore)
        self._out: Codec[ToFront] = Codec(ToFront)

    def send(self, letter: ToFront) -> None:
        self._socket.send(self._out.encode(letter))

    def receive(self, timeout: float) -> list[ToCore]:
        """All letters that are there; waits `timeout` seconds for the first."""
        letters: list[ToCore] = []
        if timeout and not self._socket.poll(int(timeout * 1000)):
            return letters
        while True:
            try:
                letters.append(self._in.decode(self._socket.recv(zmq.NOBLOCK)))
            except zmq.Again:
                return letters

    def close(self) -> None:
        """Gives what was sent a second to arrive."""
        self._socket.close(linger=1000)
        self._context.term()


class Mailbox(Protocol):
    """What `run` needs of a Post."""

    def send(self, letter: ToFront) -> None: ...
    def receive(self, timeout: float) -> list[ToCore]: ...


def run(
    core: EngineCore, post: Mailbox, *, beat: float = BEAT, rest: Callable[[], None] = heap.give_back
) -> None:
    """Serves until a Stop arrives. Raises what a broken step raised: then the core is lost. `rest` is
    called when there was nothing to do for a `beat`, once after each time that there was."""
    steps, told, wait, busy, rested = 0, time.monotonic(), beat, False, 0
    while True:
        letters = post.receive(wait)
        if not letters and wait == beat and rested != steps:
            rest()
            rested = steps
        for letter in letters:
            if isinstance(letter, Stop):
                return
            _carry_out(core, letter, post)
        deltas = core.step()
        stats = core.stats()
        now, moved = time.monotonic(), bool(deltas) or stats.steps != steps
        if deltas or core.busy != busy or now - told >= beat:
            post.send(News(tuple(deltas), stats, core.busy))
            told, busy = now, core.busy
        wait = beat if not core.busy else 0.0 if moved or core.in_flight else _STALL
        steps = stats.steps


def _carry_out(core: EngineCore, letter: ToCore, post: Mailbox) -> None:
    if isinstance(letter, Add):
        core.add(letter.requests)
    elif isinstance(letter, Abort):
        core.abort(letter.ids)
    elif isinstance(letter, Call):
        post.send(_answer(core, letter))


def _answer(core: EngineCore, letter: Call) -> Reply:
    try:
        return Reply(letter.call_id, core.call(letter.name, letter.args))
    except EngineError as error:
        return Reply(letter.call_id, error=failure(error))
    except Exception as error:
        _log.exception("call %s failed", letter.name)
        return Reply(letter.call_id, error=Failed("Fault", f"internal error: {type(error).__name__}"))


def failure(error: Exception) -> Failed:
    """The letter that says why a core ends."""
    if isinstance(error, EngineError):
        return Failed(type(error).__name__, error.message, error.hint, error.field)
    return Failed("Fault", f"internal error in the engine: {type(error).__name__}: {error}")


def _live(boot: Boot, post: Post, make: MakeExecutor) -> None:
    core = EngineCore(boot.config, boot.files, make(boot.config, boot.files))
    try:
        ready = core.start(lambda stage, share: post.send(Progress(stage, share)))
        heap.keep_loaded()
        post.send(Started(ready))
        run(core, post)
    finally:
        core.close()


def main(make: MakeExecutor = make_executor) -> int:
    """The exit status."""
    for name in (signal.SIGINT, signal.SIGTERM):  # the front decides when we leave
        signal.signal(name, signal.SIG_IGN)
    boot = read_boot(sys.stdin.buffer)
    die_with_parent(boot.parent, sys.stdin.buffer)
    configure(boot.config.observe)
    heap.keep_small()
    post = Post(boot.address)
    try:
        _live(boot, post, make)
    except Exception as error:
        if not isinstance(error, EngineError):
            _log.exception("the engine process ends")
        post.send(failure(error))
        return 1
    finally:
        post.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
