"""Server-sent events: a response that keeps quiet lines alive and notices a client that left.

Knows nothing of what the events mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")

BEAT = b": waiting\n\n"
DONE = b"data: [DONE]\n\n"
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class ClientGone(Exception):
    """The client closed the connection before its answer was complete."""


def event(data: bytes) -> bytes:
    """One event; JSON holds no raw line break, so one data line is enough."""
    return b"data: " + data + b"\n\n"


def named(name: str, data: bytes) -> bytes:
    """One event whose kind stands on a line of its own as well."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


class EventStream(Response):
    """Sends what `events` yields, and a comment after `heartbeat` seconds of silence.

    The generator is closed when the client leaves, so its `finally` stops the work behind it.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        heartbeat: float,
        finally_do: Callable[[], None],
        beat: bytes = BEAT,
    ) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._events = events
        self._heartbeat = heartbeat
        self._sign = beat
        self._finally = finally_do
        self._last = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        beat: asyncio.Future[None] | None = None
        try:
            self._last = time.monotonic()
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            beat = asyncio.ensure_future(self._beat(send))
            await until_gone(receive, self._pump(send))
            await _end(beat)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (ClientGone, OSError):  # nobody is left to be told
            return
        finally:
            if beat is not None:
                await _end(beat)
            self._finally()

    async def _pump(self, send: Send) -> None:
        async with contextlib.aclosing(self._events) as events:
            async for data in events:
                self._last = time.monotonic()
                await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _beat(self, send: Send) -> None:
        while True:
            quiet = time.monotonic() - self._last
            if quiet >= self._heartbeat:
                self._last, quiet = time.monotonic(), 0.0
                await send({"type": "http.response.body", "body": self._sign, "more_body": True})
            await asyncio.sleep(self._heartbeat - quiet)


async def _end(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; cancels it and raises ClientGone when the client leaves first."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
