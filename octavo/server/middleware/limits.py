"""The size of a request's body, and of all of them together, checked while they come in, never after."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octavo.server.openai.errors import Problem, error_response

_RETRY = 2.0  # seconds after which an open request is likely to have ended


class BodyLimit:
    """Refuses bodies above `most` bytes with 413, announced or not, and any with 503 while those of the
    open requests fill `together`: each is kept until its request ends."""

    def __init__(self, app: ASGIApp, *, most: int, together: int) -> None:
        self._app = app
        self._most = most
        self._together = together
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if not announced.isdecimal() or len(announced) > 18 or int(announced) > self._most:
            await error_response(self._problem())(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            size = len(message.get("body", b""))
            seen += size
            self._held += size
            if seen > self._most:
                raise self._problem()
            if self._held > self._together:
                raise Problem(
                    503,
                    "the server holds too many large requests",
                    hint="try again later",
                    retry_after=_RETRY,
                )
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._held -= seen

    def _problem(self) -> Problem:
        hint = "shorten the request or start the server with a larger --max-body-bytes"
        return Problem(413, f"the body is larger than {self._most} bytes", hint=hint, field="body")
