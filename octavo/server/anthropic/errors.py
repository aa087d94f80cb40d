"""Errors in Anthropic's shape, kept away from everything else.

What any part of the server answers with on these routes is told in this dialect: by a middleware where
requests come from outside, by `retold` where a batch asks.
"""

from __future__ import annotations

import msgspec
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octavo.server.anthropic.types import AnthropicError, ErrorFacts
from octavo.server.openai.errors import ErrorReply

PREFIX = "/v1/messages"
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    431: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def facts(problem: ErrorReply) -> ErrorFacts:
    """The same error in this dialect's words."""
    kind = _KINDS.get(problem.error.code, "api_error")
    field = problem.error.param
    return ErrorFacts(kind, f"{field}: {problem.error.message}" if field else problem.error.message)


def spoken(path: str) -> bool:
    """Whether this dialect is spoken there."""
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def retold(response: Response, request_id: str | None) -> Response:
    """An error's reply in this dialect; any other as it is."""
    if response.status_code < 400:
        return response
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    return Response(_retold(bytes(response.body), request_id), response.status_code, headers)


def _retold(body: bytes, request_id: str | None) -> bytes:
    try:
        problem = msgspec.json.decode(body, type=ErrorReply)
    except msgspec.DecodeError:
        return body  # not one of ours: as it is
    return msgspec.json.encode(AnthropicError(facts(problem), request_id))


class AnthropicWords:
    """Rewrites errors on the routes under PREFIX."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        if not spoken(path):
            await self._app(scope, receive, send)
            return
        await self._app(scope, receive, _Rewriter(send, scope.get("request_id")).send)


class _Rewriter:
    """Holds an error's reply back until it is complete."""

    def __init__(self, send: Send, request_id: str | None) -> None:
        self._send = send
        self._id = request_id
        self._start: Message | None = None
        self._body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self._start = message
        elif self._start is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body"):
                await self._finish(self._start)

    async def _finish(self, start: Message) -> None:
        body = _retold(self._body, self._id)
        MutableHeaders(scope=start)["content-length"] = str(len(body))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})
