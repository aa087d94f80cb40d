"""The server's life: port, core, app, signals, drain. Knows no route.

Order: take the port (so that a taken one is told at once), start the core while the tokenizer
is read, answer requests, and on SIGTERM or Ctrl-C finish open streams before leaving.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import uvicorn
import uvloop
from starlette.applications import Starlette

from octavo.config.engine import EngineConfig
from octavo.core import heap
from octavo.core.facts import ModelFiles, Ready
from octavo.core.runner import Progress
from octavo.engine.client import CoreClient
from octavo.front.prompt import PromptBuilder, load_text
from octavo.front.service import Front
from octavo.front.speech import Formats
from octavo.observe.log import configure
from octavo.observe.ticker import Ticker
from octavo.server.app import build
from octavo.server.doors import check_doors
from octavo.server.keys import without_plain_keys
from octavo.server.middleware.drain import Traffic
from octavo.server.port import listen
from octavo.server.protocol import Bounded, Bounds
from octavo.server.service import Service
from octavo.server.tls import tls

T = TypeVar("T")
U = TypeVar("U")

_TICK = 10.0  # seconds between two lines of statistics
_REST = 2.0  # seconds without a request after which memory is given back
_LAST = 2  # seconds a request gets to notice that it was cut off
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_log = logging.getLogger(__name__)


class Serving(NamedTuple):
    """What the command line shows once requests are answered."""

    url: str
    model: str
    ready: Ready
    queue: int
    seconds: float
    chat: bool = True  # whether there is a chat template


Announce = Callable[[Serving], None]


def run(config: EngineConfig, files: ModelFiles, *, progress: Progress, announce: Announce) -> None:
    """Serves until a signal says stop. Raises UserError and the like when it cannot start."""
    configure(config.observe)
    heap.keep_small()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(config, files, progress=progress, announce=announce))


async def serve(config: EngineConfig, files: ModelFiles, *, progress: Progress, announce: Announce) -> None:
    """As `run`, on a loop that runs already."""
    started = time.monotonic()
    check_doors(config.serve)
    config = dataclasses.replace(config, serve=without_plain_keys(config.serve))
    Formats.of(config.serve, None)  # a wrong name is told before weights are loaded
    stop = Stop()
    with stop.listening(), contextlib.closing(listen(config.serve.host, config.serve.port)) as listener:
        try:
            async with opened(config, files, progress, stop) as service:
                facts = Serving(
                    url=_url(config, listener),
                    model=service.names[0],
                    ready=service.ready,
                    queue=service.gate.most,
                    seconds=time.monotonic() - started,
                    chat=service.builder.template is not None,
                )
                await answer(service, listener, stop, lambda: announce(facts), give_up=service.client.close)
        except Stopped:
            _log.info("stopped while starting")


@contextlib.asynccontextmanager
async def opened(
    config: EngineConfig, files: ModelFiles, progress: Progress, stop: Stop
) -> AsyncIterator[Service]:
    """An engine and what surrounds it, without a socket. Stopped when a signal comes first."""
    client = CoreClient(config, files)
    loading = asyncio.to_thread(load_text, config.model, files)
    try:
        text, ready = await _unless(stop, _both(loading, client.start(progress)))
        builder = PromptBuilder.of(config, text, ready)
        service = Service(config, files, ready, client, Front(client, builder), builder)
        heap.keep_loaded()
        yield service
    finally:
        await client.close()


async def answer(
    service: Service,
    listener: socket.socket,
    stop: Stop,
    announce: Callable[[], None],
    *,
    give_up: Callable[[], Awaitable[None]],
) -> None:
    """Serves requests until `stop` is asked for and they are done. `give_up` ends the engine for
    those that are not done in time, so that their streams are told before they are cut."""
    server = _Server(_uvicorn(service.config, build(service)), announce)
    background = [asyncio.ensure_future(_leave(server, service, stop, give_up))]
    if not service.config.observe.disable_log_stats:
        ticker = Ticker(service.meter, lambda: service.client.stats)
        background.append(asyncio.ensure_future(ticker.run(_TICK)))
    background.append(asyncio.ensure_future(resting(service.traffic, heap.give_back)))
    service.batches.start()
    try:
        await server.serve(sockets=[listener])
    finally:
        await service.batches.close()
        await _cancel(background)
        service.close()


async def resting(traffic: Traffic, rest: Callable[[], None], every: float = _REST) -> None:
    """Calls `rest` when no request came for a while and none is open, once after each time that some did."""
    came = rested = traffic.came
    while True:
        await asyncio.sleep(every)
        if not traffic.open and traffic.came == came != rested:
            rest()
            rested = came
        came = traffic.came


async def _leave(
    server: uvicorn.Server, service: Service, stop: Stop, give_up: Callable[[], Awaitable[None]]
) -> None:
    """After the first signal open requests may end; a second one, or patience, cuts them off."""
    await stop.asked.wait()
    service.traffic.leaving = True
    if service.traffic.open:
        _log.info("finishing %d requests; press Ctrl-C again to leave at once", service.traffic.open)
    waits = [asyncio.ensure_future(service.traffic.quiet()), asyncio.ensure_future(stop.again.wait())]
    patience = service.config.serve.shutdown_timeout
    await asyncio.wait(waits, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
    await _cancel(waits)
    if service.traffic.open and not stop.again.is_set():
        left = service.traffic.open
        _log.warning("%d requests were not done after %g s (--shutdown-timeout)", left, patience)
        await give_up()
    server.force_exit = stop.again.is_set()
    server.should_exit = True
    await stop.again.wait()
    server.force_exit = True


class Stop:
    """What signals say: the first one "finish and leave", the second one "leave"."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.again = asyncio.Event()

    def signal(self) -> None:
        (self.again if self.asked.is_set() else self.asked).set()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handles signals meanwhile. Off the main thread there are none to handle."""
        loop, taken = asyncio.get_running_loop(), []
        for name in _SIGNALS:
            with contextlib.suppress(ValueError, RuntimeError):
                loop.add_signal_handler(name, self.signal)
                taken.append(name)
        try:
            yield
        finally:
            for name in taken:
                loop.remove_signal_handler(name)


class Stopped(Exception):
    """A signal came before the server was up."""


class _Server(uvicorn.Server):
    """uvicorn, without its own signal handlers, and with a word when it is ready."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()


def _uvicorn(config: EngineConfig, app: Starlette) -> uvicorn.Config:
    protocol: Any = functools.partial(Bounded, bounds=Bounds.of(config.serve))
    context = tls(config.serve)
    return uvicorn.Config(
        app,
        http=protocol,
        ssl_context_factory=None if context is None else lambda config, default: context,
        timeout_keep_alive=config.serve.keep_alive_timeout,  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=not config.observe.disable_uvicorn_access_log,
        server_header=False,
        root_path=config.serve.root_path,
        timeout_graceful_shutdown=_LAST,
    )


def _url(config: EngineConfig, listener: socket.socket) -> str:
    """An address that works on this machine."""
    host = config.serve.host
    host = "127.0.0.1" if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
    scheme = "http" if config.serve.ssl_certfile is None else "https"
    return f"{scheme}://{host}:{listener.getsockname()[1]}"


async def _unless(stop: Stop, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; Stopped when a signal comes first."""
    task, asked = asyncio.ensure_future(work), asyncio.ensure_future(stop.asked.wait())
    try:
        await asyncio.wait((task, asked), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Stopped
        return task.result()
    finally:
        await _cancel([task, asked])


async def _both(first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """Both results; when one fails the other is cancelled."""
    tasks = (asyncio.ensure_future(first), asyncio.ensure_future(second))
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _cancel(tasks)


async def _cancel(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
