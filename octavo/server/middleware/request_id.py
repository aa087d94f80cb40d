"""Gives every request an id: the client's X-Request-Id when it is a sane one, else a new one."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octavo.observe.log import request_id

_SANE = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class RequestId:
    """Puts `request_id` into the scope and the log's context; answers with X-Request-Id."""

    def __init__(self, app: ASGIApp, *, answer: bool) -> None:
        self._app = app
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        name = given if _SANE.fullmatch(given) else uuid.uuid4().hex
        scope["request_id"] = name
        token = request_id.set(name)

        async def reply(message: Message) -> None:
            if self._answer and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = name
            await send(message)

        try:
            await self._app(scope, receive, reply)
        finally:
            request_id.reset(token)
