"""Speaks ASGI with an app in this process: requests, streams and clients that leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.types import ASGIApp, Message


class Call:
    """One HTTP request. `status` and `headers` are there after `started`."""

    def __init__(
        self,
        app: ASGIApp,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
        query: str = "",
    ) -> None:
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        given = {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})}
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._outbox: asyncio.Queue[Message | None] = asyncio.Queue()
        self._inbox.put_nowait({"type": "http.request", "body": data, "more_body": False})
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in given.items()],
            "client": ("127.0.0.1", 1),
            "server": ("test", 80),
        }
        self._task = asyncio.ensure_future(self._run(app, scope))
        self.status = 0
        self.headers: dict[str, str] = {}

    async def _run(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._inbox.get, self._outbox.put)
        finally:
            self._outbox.put_nowait(None)

    async def started(self) -> int:
        """Waits for the status line."""
        message = await self._outbox.get()
        if message is None:
            await self._task
            raise AssertionError("the app ended without a reply")
        self.status = message["status"]
        self.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        return self.status

    async def parts(self) -> AsyncIterator[bytes]:
        while (message := await self._outbox.get()) is not None:
            if message["body"]:
                yield message["body"]
            if not message.get("more_body"):
                break

    async def events(self) -> AsyncIterator[Any]:
        """Data of each event, parsed; "[DONE]" and comments as they are."""
        async for part in self.parts():
            for line in part.decode().split("\n\n"):
                if line.startswith("data: "):
                    data = line[6:]
                    yield data if data == "[DONE]" else json.loads(data)
                elif line:
                    yield line

    def leave(self) -> None:
        """The client closes the connection."""
        self._inbox.put_nowait({"type": "http.disconnect"})

    async def ended(self) -> None:
        await self._task


class Reply:
    def __init__(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.status = status
        self.headers = headers
        self.content = content

    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> dict[str, Any]:
        return dict(self.json()["error"])


async def ask(app: ASGIApp, method: str, path: str, body: Any = None, **more: Any) -> Reply:
    """A request whose whole answer is wanted."""
    call = Call(app, method, path, body, **more)
    await call.started()
    content = b"".join([part async for part in call.parts()])
    await call.ended()
    return Reply(call.status, call.headers, content)


async def stream(app: ASGIApp, path: str, body: Any, **more: Any) -> list[Any]:
    """All events of a streamed answer."""
    call = Call(app, "POST", path, {**body, "stream": True}, **more)
    assert await call.started() == 200, b"".join([part async for part in call.parts()])
    events = [event async for event in call.events()]
    await call.ended()
    return events


async def told(app: ASGIApp, path: str, body: Any, **more: Any) -> list[dict[str, Any]]:
    """All named events of a streamed answer; each says its name twice."""
    return await heard(Call(app, "POST", path, {**body, "stream": True}, **more))


async def heard(call: Call) -> list[dict[str, Any]]:
    assert await call.started() == 200, b"".join([part async for part in call.parts()])
    events = []
    for block in b"".join([part async for part in call.parts()]).decode().split("\n\n")[:-1]:
        if not block.startswith(":"):
            name, data = block.removeprefix("event: ").split("\ndata: ")
            events.append(json.loads(data))
            assert events[-1]["type"] == name
    await call.ended()
    return events
