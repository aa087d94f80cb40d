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
from octavo.server.visit import Account, Visit, visiting

Answer = Callable[[Request], Awaitable[HttpResponse]]
Owner = Callable[[str], "Account | None"]
Sleep = Callable[[float], Awaitable[None]]

_AGAIN = (429, 503)  # busy, or being started again: not the request's fault
_TRIES = 5
_PAUSE = 30.0  # seconds at most between two tries


class Dispatch:
    """`table` maps a url to what answers it; errors come back as responses. `health` says why the
    engine cannot serve, None while it can. `owner` knows who pays for a tenant's lines, None when nobody
    does: those wait."""

    def __init__(
        self,
        table: Mapping[str, Answer],
        health: Callable[[], str | None],
        owner: Owner,
        *,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.table = table
        self._health = health
        self.owner = owner
        self._sleep = sleep

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(self.table)

    async def pace(self, tenant: str) -> None:
        """Returns when the tenant's limits a minute allow one line more, which is then taken from them.
        How many are open at once is bounded for all batches together, not for a key."""
        account = self.owner(tenant)
        while account is not None and (refusal := account.quota.pace()) is not None:
            await self._sleep(min(refusal.wait, _PAUSE))

    async def ask(self, line: Line, tenant: str) -> Result:
        """The result of one line, whatever it holds. EngineDead when the engine is gone for good: that
        is no answer, and the line is to be asked again another time."""
        if line.problem is not None:
            return failed(line, line.problem.code, line.problem.message)
        if (answer := self.table.get(line.url)) is None:
            known = ", ".join(self.table)
            return failed(line, "invalid_url", f"url is {line.url[:80]!r}, it can be {known}")
        token, visit = request_id.set(line.id), Visit()
        visit.account = self.owner(tenant)
        entered = visiting.set(visit)
        try:
            return _result(line, await self._patiently(answer, line, tenant))
        finally:
            visiting.reset(entered)
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
