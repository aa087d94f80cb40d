"""The size of a request's body, and of all of them together, checked while they come in, never after."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octavo.server.openai.errors import Problem, error_response

_RETRY = 2.0  # seconds after which an open request is likely to have ended


class BodyLimit:
    """Refuses bodies above `most` bytes with 413, announced or not, and any with 503 while those of the
    open requests fill `together`: each is kept until its request ends. `larger` has limits of its own for
    paths whose bodies are not kept but written down as they come."""

    def __init__(
        self, app: ASGIApp, *, most: int, together: int, larger: Mapping[str, int] | None = None
    ) -> None:
        self._app = app
        self._most = most
        self._together = together
        self._larger = larger or {}
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own = self._larger.get(scope["path"].removeprefix(scope.get("root_path", "")))
        most = self._most if own is None else own
        announced = Headers(scope=scope).get("content-length", "0")
        if not announced.isdecimal() or len(announced) > 18 or int(announced) > most:
            await error_response(_problem(most))(scope, receive, send)
            return
        seen = held = 0

        async def counted() -> Message:
            nonlocal seen, held
            message = await receive()
            size = len(message.get("body", b""))
            seen += size
            if seen > most:
                raise _problem(most)
            if own is None:
                held += size
                self._held += size
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
            self._held -= held


def _problem(most: int) -> Problem:
    hint = "shorten the request or start the server with a larger --max-body-bytes"
    return Problem(413, f"the body is larger than {most} bytes", hint=hint, field="body")
