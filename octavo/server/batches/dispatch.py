"""One line to one result, through the same handlers that answer live requests.

The table of handlers is given: /v1/batches and `octavo run-batch` share it with the routes, so
that whatever a route can do a batch can do. A handler sees an ordinary request that nobody
will hang up on, marked to wait for live ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response as HttpResponse
from starlette.types import Message

from octavo.core.errors import EngineDead
from octavo.observe.log import request_id
from octavo.server.batches.lines import Line, Response, Result, failed

Answer = Callable[[Request], Awaitable[HttpResponse]]
Sleep = Callable[[float], Awaitable[None]]

_AGAIN = (429, 503)  # busy, or being started again: not the request's fault
_TRIES = 5
_PAUSE = 30.0  # seconds at most between two tries


class Dispatch:
    """`table` maps a url to what answers it; errors come back as responses. `health` says why the
    engine cannot serve, None while it can."""

    def __init__(
        self,
        table: Mapping[str, Answer],
        health: Callable[[], str | None],
        *,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.table = table
        self._health = health
        self._sleep = sleep

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(self.table)

    async def ask(self, line: Line, tenant: str) -> Result:
        """The result of one line, whatever it holds. EngineDead when the engine is gone for good: that
        is no answer, and the line is to be asked again another time."""
        if line.problem is not None:
            return failed(line, line.problem.code, line.problem.message)
        if (answer := self.table.get(line.url)) is None:
            known = ", ".join(self.table)
            return failed(line, "invalid_url", f"url is {line.url[:80]!r}, it can be {known}")
        token = request_id.set(line.id)
        try:
            return _result(line, await self._patiently(answer, line, tenant))
        finally:
            request_id.reset(token)

    async def _patiently(self, answer: Answer, line: Line, tenant: str) -> HttpResponse:
        for _ in range(_TRIES):
            response = await answer(_request(line, tenant))
            if response.status_code not in _AGAIN:
                return response
            wanted = response.headers.get("retry-after", "1")
            await self._sleep(min(float(wanted) if wanted.isdecimal() else 1.0, _PAUSE))
        if (reason := self._health()) is not None:
            raise EngineDead(reason)
        return response


def _request(line: Line, tenant: str) -> Request:
    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": line.url,
        "raw_path": line.url.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "server": None,
        "client": None,
        "tenant": tenant,
        "request_id": line.id,
        "patient": True,
    }
    waiting = [line.body]

    async def receive() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        await asyncio.Event().wait()  # nobody leaves
        raise AssertionError

    return Request(scope, receive)


def _result(line: Line, response: HttpResponse) -> Result:
    body = msgspec.Raw(bytes(response.body))
    return Result(
        id=line.id, custom_id=line.custom_id, response=Response(response.status_code, line.id, body)
    )
