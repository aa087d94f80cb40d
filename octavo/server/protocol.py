"""uvicorn's HTTP protocol with bounds on what a connection may send, and how slowly.

uvicorn and httptools bound none of it: the size and number of headers, trailers and chunk extensions,
requests that are sent before the last one is answered, and the time all of this may take.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from octavo.config.serve import ServeConfig
from octavo.server.openai.errors import Problem, describe

_MOST_AHEAD = 16  # requests sent before the last one is answered
_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class Bounds(NamedTuple):
    """Bytes, counts and seconds."""

    head: int
    headers: int
    connections: int
    head_seconds: float
    body_seconds: float
    send_seconds: float

    @classmethod
    def of(cls, serve: ServeConfig) -> Bounds:
        return cls(
            serve.max_header_bytes,
            serve.max_header_count,
            serve.max_connections,
            serve.header_timeout,
            serve.body_timeout,
            serve.send_timeout,
        )


class Bounded(HttpToolsProtocol):
    """One connection. What breaks a bound is answered where that is possible, and closed."""

    def __init__(self, *args: Any, bounds: Bounds, **more: Any) -> None:
        super().__init__(*args, **more)
        self._bounds = bounds
        self._head = 0  # bytes of the head that is being read
        self._in_head = True
        self._in_message = False
        self._idle = 0  # bytes that brought neither a complete head nor a piece of a body
        self._moved = False
        self._refused: Problem | None = None
        self._answering: RequestResponseCycle | None = None  # uvicorn's `cycle` is the one read last
        self._patience: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    # -- the transport's side -------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._bounds.connections:
            self._refuse(Problem(503, "too many connections are open", hint="try again later"))
            return
        self._wait(self._bounds.head_seconds, "the request's head")

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._patience, self._unread):
            if timer is not None:
                timer.cancel()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused is not None:
            return
        self._moved = False
        super().data_received(data)
        self._idle = 0 if self._moved else self._idle + len(data)
        if self._idle > self._bounds.head:
            self._too_large()
        if self._refused is not None:
            self._refuse(self._refused)
        elif not self._in_message and self._patience is None and self._at_rest():
            self._wait(self._bounds.head_seconds, "the request's head")  # line breaks, say

    def shutdown(self) -> None:
        """An idle TLS connection would wait half a minute for its client's good-bye."""
        super().shutdown()
        if self.scheme == "https" and self._at_rest() and not self.transport.get_write_buffer_size():
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self._bounds.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    # -- the parser's side ----------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head, self._in_head, self._in_message = 0, True, True
        if self._patience is None:
            self._wait(self._bounds.head_seconds, "the request's head")

    def on_url(self, url: bytes) -> None:
        self._head += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Headers behind a body are dropped: they could pose as those before it."""
        if self._in_head:
            self._head += len(name) + len(value) + len(b": \r\n")
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._moved = False, True
        if self._head > self._bounds.head or len(self.headers) > self._bounds.headers:
            self._too_large()
        elif len(self.pipeline) >= _MOST_AHEAD:
            self._refused = Problem(400, "too many requests were sent ahead", hint="wait for answers")
        if self._refused is None:
            self._wait(self._bounds.body_seconds, "the request's body")
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._moved = True
        if self._refused is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._moved, self._in_message = True, False
        if self._refused is None:
            self._stop_waiting()
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _unsupported_upgrade_warning(self) -> None:
        """No other protocol is spoken: the request is answered as it is, and the log not filled with that."""

    # -- refusals -------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls this for what is not HTTP."""
        self._refuse(self._refused or Problem(400, "this is not a valid HTTP request"))

    def _too_large(self) -> None:
        hint = f"at most {self._bounds.head} bytes and {self._bounds.headers} headers"
        self._refused = Problem(431, "the request's head is too large", hint=hint)

    def _refuse(self, problem: Problem) -> None:
        """Says why, unless that would end up in the middle of an answer, and closes."""
        self._refused = problem
        self._stop_waiting()
        if not self.transport.is_closing():
            running = self._answering
            if running is None or running.response_complete or not running.response_started:
                self.transport.write(_answer(problem))
            self.transport.close()

    def _at_rest(self) -> bool:
        """Whether no request is being answered."""
        return self._answering is None or self._answering.response_complete

    def _wait(self, seconds: float, what: str) -> None:
        self._stop_waiting()
        problem = Problem(408, f"{what} did not arrive within {seconds:g} seconds")
        self._patience = self.loop.call_later(seconds, self._refuse, problem)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


def _answer(problem: Problem) -> bytes:
    body = msgspec.json.encode(describe(problem))
    retry = "Retry-After: 5\r\n" if problem.status == 503 else ""
    head = (
        f"HTTP/1.1 {problem.status} {_PHRASES[problem.status]}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{retry}Connection: close\r\n\r\n"
    )
    return head.encode() + body
