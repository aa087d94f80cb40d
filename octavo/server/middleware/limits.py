"""The size of a request's body, checked while it comes in, never after."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octavo.server.openai.errors import Problem, error_response


class BodyLimit:
    """Refuses bodies above `most` bytes with 413, announced or not; `larger` has limits of its own for
    some paths."""

    def __init__(self, app: ASGIApp, *, most: int, larger: Mapping[str, int] | None = None) -> None:
        self._app = app
        self._most = most
        self._larger = larger or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._larger.get(scope["path"].removeprefix(scope.get("root_path", "")), self._most)
        announced = Headers(scope=scope).get("content-length", "0")
        if not announced.isdecimal() or len(announced) > 18 or int(announced) > most:
            await error_response(_problem(most))(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise _problem(most)
            return message

        await self._app(scope, counted, send)


def _problem(most: int) -> Problem:
    hint = "shorten the request or start the server with a larger --max-body-bytes"
    return Problem(413, f"the body is larger than {most} bytes", hint=hint, field="body")
