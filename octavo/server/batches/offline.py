"""A whole input file answered without a server: the engine behind `octavo run-batch`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from octavo.config.engine import EngineConfig
from octavo.core.facts import ModelFiles
from octavo.core.runner import Progress
from octavo.server import admin
from octavo.server.app import dispatch
from octavo.server.batches.journal import Journal
from octavo.server.batches.lines import Line, Result, read_lines
from octavo.server.batches.work import Work, unanswered
from octavo.server.port import listen
from octavo.server.run import Stop, Stopped, opened
from octavo.server.service import Service
from octavo.server.visit import Account

Told = Callable[[Result], None]


class Task(NamedTuple):
    """What is to be answered, and where to. `metrics` is the address /metrics is shown at."""

    input: Path
    journal: Journal
    config: EngineConfig
    metrics: str | None = None


def left(task: Task) -> tuple[int, int]:
    """How many requests the input holds, and how many of them have no answer. UserError when the
    output belongs to another input."""
    with task.input.open("rb") as file:
        missing = sum(1 for _ in unanswered(_lines(task, file), task.journal))
    return len(task.journal.done) + missing, missing


async def answer(task: Task, files: ModelFiles, progress: Progress, told: Told) -> bool:
    """Whether all is answered: False when a signal came first."""
    stop = Stop()
    with stop.listening():
        try:
            async with opened(task.config, files, progress, stop) as service, _metrics(task, service):
                try:
                    return await _answer(task, service, stop, told)
                finally:
                    service.close()
        except Stopped:
            return False


async def _answer(task: Task, service: Service, stop: Stop, told: Told) -> bool:
    nobody = Account("", "")  # limits and keys are for servers
    ways = dispatch(service, lambda tenant: nobody)

    async def ask(line: Line) -> Result:
        return await ways.ask(line, "")

    slots = asyncio.Semaphore(rows(task.config, service.ready.cache.max_rows))
    with task.input.open("rb") as file:
        work = asyncio.ensure_future(Work(task.journal, ask, slots, told).run(_lines(task, file)))
        asked = asyncio.ensure_future(stop.asked.wait())
        try:
            await asyncio.wait((work, asked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()
            asked.cancel()
            ended, _ = await asyncio.gather(work, asked, return_exceptions=True)
    if isinstance(ended, Exception):
        raise ended
    return ended is None


def rows(config: EngineConfig, most: int) -> int:
    """Requests handed to the engine at once: twice what it computes, so that the next ones are ready."""
    return config.files.batch_rows or 2 * most


def _lines(task: Task, file: BinaryIO) -> Iterator[Line]:
    return read_lines(file, task.config.serve.max_body_bytes)


@contextlib.asynccontextmanager
async def _metrics(task: Task, service: Service) -> AsyncIterator[None]:
    """Shows /metrics and nothing else meanwhile, where that was asked for."""
    if task.metrics is None:
        yield
        return

    async def show(request: Request) -> Response:
        return await admin.metrics(service, request)

    app = Starlette(routes=[Route("/metrics", show)])
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    with contextlib.closing(listen(task.metrics, task.config.serve.port)) as listener:
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        try:
            yield
        finally:
            server.should_exit = True
            await serving
