"""CoreClient: the front's way to a core in another process. `inline.py` holds its sibling for one process.

Owns the socket, the journal of open requests and the decision that a core is dead. When one
dies it is started again and its open requests are replayed, so that streams go on. Never
loads torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import zmq
import zmq.asyncio

from octavo.config.engine import EngineConfig
from octavo.core.errors import EngineDead, EngineError
from octavo.core.events import CoreStats
from octavo.core.facts import ModelFiles, Ready
from octavo.core.mail import Abort, Add, Call, Failed, News, Reply, Started, Stop, ToCore, ToFront
from octavo.core.mail import Progress as ProgressNews
from octavo.core.request import EngineRequest
from octavo.core.runner import Progress
from octavo.core.wire import Codec
from octavo.engine.journal import Journal, Stream
from octavo.engine.lifecycle import MODULE, CoreProcess, address_in, private_folder, rebuild_error

_GRACE = 10.0  # seconds a core may take to leave after Stop
_LAST_WORDS = 0.2  # seconds in which the last letters of a dead core may still arrive
_QUIET: Progress = lambda stage, share: None  # noqa: E731

_log = logging.getLogger(__name__)


class CoreClient:
    """Speaks with one core. Everything runs on the event loop that called `start`.

    `submit` and `abort` are plain calls, so that they can stand in a `finally`.
    """

    def __init__(
        self,
        config: EngineConfig,
        files: ModelFiles,
        *,
        module: str = MODULE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._module = module
        self._config = config
        self._files = files
        self._clock = clock
        self._context = zmq.asyncio.Context()
        self._out: Codec[ToCore] = Codec(ToCore)
        self._in: Codec[ToFront] = Codec(ToFront)
        self._journal = Journal()
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._next_call = 0
        self._socket: zmq.asyncio.Socket | None = None
        self._process: CoreProcess | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._dead: EngineError | None = None
        self._reviving = False
        self._moved = clock()  # when the core last finished a step or had nothing to do
        self.ready: Ready
        self.stats = CoreStats()
        self.restarts = 0

    # -- life -----------------------------------------------------------------------------

    async def start(self, progress: Progress = _QUIET) -> Ready:
        """Spawns the core and waits until the model is loaded. Raises the core's typed error."""
        self.ready = await self._spawn(progress)
        self._keeper = asyncio.create_task(self._keep(), name="octavo-core-keeper")
        return self.ready

    async def close(self) -> None:
        """Ends the core; open streams get EngineDead. Safe to call twice."""
        self._die(EngineDead("the engine was shut down"))
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        if self._process is not None and self._process.alive:
            self._send(Stop())
        await self._leave(_GRACE)
        self._context.term()

    @property
    def pid(self) -> int | None:
        """Of the core's process, for logs and tests."""
        return self._process.pid if self._process else None

    # -- requests -------------------------------------------------------------------------

    def submit(self, requests: Sequence[EngineRequest]) -> Stream:
        """Queues rows and returns their common stream. EngineDead when there is no core."""
        if self._dead is not None:
            raise self._dead
        if not self._journal:
            self._moved = self._clock()
        stream = self._journal.open(requests)
        self._send(Add(tuple(requests)))
        return stream

    def abort(self, ids: Iterable[str]) -> None:
        """Gives rows up. Their streams end with Finish.ABORT; unknown ids are ignored."""
        known = self._journal.forget(ids)
        if known and self._dead is None:
            self._send(Abort(known))

    async def call(self, name: str, **args: Any) -> Any:
        """Rare control. Raises the core's own error when it fails."""
        if self._dead is not None or self._reviving:
            raise self._dead or EngineDead("the engine is being started again", hint="try again in a moment")
        self._next_call += 1
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls[self._next_call] = answer
        self._send(Call(self._next_call, name, args))
        return await answer

    @property
    def open_requests(self) -> int:
        """Rows submitted and not finished."""
        return len(self._journal)

    def health(self) -> str | None:
        """None while idle or progressing, else what is wrong."""
        if self._dead is not None:
            return str(self._dead)
        waited = self._clock() - self._moved
        if self._journal and waited > self._config.serve.step_timeout:
            return f"no step has finished for {waited:.0f} s"
        return None

    # -- inside ---------------------------------------------------------------------------

    async def _spawn(self, progress: Progress) -> Ready:
        folder = private_folder()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.set_hwm(0)
        self._socket.linger = 0
        self._socket.bind(address_in(folder))
        try:
            self._process = await CoreProcess.spawn(self._module, self._config, self._files, folder)
            return await self._first_news(progress)
        except BaseException:
            await self._leave(0.5)
            raise

    async def _first_news(self, progress: Progress) -> Ready:
        while True:
            letter = await self._receive()
            if isinstance(letter, ProgressNews):
                progress(letter.stage, letter.share)
            elif isinstance(letter, Started):
                return letter.ready
            elif isinstance(letter, Failed):
                raise rebuild_error(letter)

    async def _receive(self) -> ToFront:
        """The next letter. EngineDead when the process ends and has nothing more to say."""
        assert self._socket is not None and self._process is not None
        mail = asyncio.ensure_future(self._socket.recv())
        death = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait((mail, death), return_when=asyncio.FIRST_COMPLETED)
            if not mail.done():  # let what it said last arrive first
                await asyncio.wait((mail,), timeout=_LAST_WORDS)
            if not mail.done():
                raise death.result()
            return self._in.decode(mail.result())
        finally:
            mail.cancel()
            death.cancel()

    async def _keep(self) -> None:
        """Reads news for ever; when the core dies, starts another and replays."""
        while True:
            try:
                await self._read()
            except EngineError as error:
                _log.error("%s; %d open requests", error, len(self._journal))
                if not await self._revive(error):
                    return

    async def _read(self) -> None:
        """Returns never; raises when the core is lost."""
        assert self._socket is not None and self._process is not None
        death = asyncio.ensure_future(self._process.wait())
        socket = self._socket

        async def pump() -> None:
            while True:
                self._take(self._in.decode(await socket.recv()))

        reader = asyncio.ensure_future(pump())
        try:
            await asyncio.wait((reader, death), return_when=asyncio.FIRST_COMPLETED)
            if not reader.done():
                await asyncio.wait((reader,), timeout=_LAST_WORDS)
            if reader.done():
                reader.result()
            raise death.result()
        finally:
            for task in (reader, death):
                task.cancel()
            await asyncio.gather(reader, death, return_exceptions=True)

    def _take(self, letter: ToFront) -> None:
        if isinstance(letter, News):
            if letter.stats.last_step != self.stats.last_step or not self._journal:
                self._moved = self._clock()
            self.stats = letter.stats
            self._journal.deliver(letter.deltas)
        elif isinstance(letter, Reply):
            self._answer(letter)
        elif isinstance(letter, Failed):
            raise EngineDead(rebuild_error(letter).message, hint=letter.hint)

    def _answer(self, letter: Reply) -> None:
        waiting = self._calls.pop(letter.call_id, None)
        if waiting is None or waiting.done():
            return
        if letter.error is None:
            waiting.set_result(letter.value)
        else:
            waiting.set_exception(rebuild_error(letter.error))

    async def _revive(self, error: EngineError) -> bool:
        """Starts another core and replays. False when that fails: then all is lost."""
        self._fail_calls(error)
        await self._leave(1.0)
        if not self.stats.last_step:  # it died before its first step: another would too
            self._die(error)
            return False
        self._journal.count_death()
        self.stats = CoreStats()
        self._reviving = True
        try:
            await self._spawn(_QUIET)
        except EngineError as again:
            self._die(EngineDead(f"{error.message}; starting it again failed: {again}"))
            return False
        finally:
            self._reviving = False
        self.restarts += 1
        self._moved = self._clock()
        replay = self._journal.replay()  # also what was submitted while there was no core
        if replay:
            self._send(Add(replay))
        _log.warning("the engine was started again; %d requests go on", len(replay))
        return True

    def _send(self, letter: ToCore) -> None:
        """Never blocks: the queue is unbounded and the server's own limits bound what is open.
        While a core is being revived nothing is sent: the journal knows what is open."""
        if self._reviving or self._socket is None:
            return
        sent = asyncio.ensure_future(self._socket.send(self._out.encode(letter)))  # a future already
        sent.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _fail_calls(self, error: EngineError) -> None:
        for waiting in self._calls.values():
            if not waiting.done():
                waiting.set_exception(error)
        self._calls.clear()

    def _die(self, error: EngineError) -> None:
        self._dead = self._dead or error
        self._fail_calls(error)
        self._journal.fail(error)

    async def _leave(self, grace: float) -> None:
        if self._process is not None:
            await self._process.end(grace)
            self._process = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
