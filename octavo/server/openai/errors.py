"""Errors on the wire: one place that knows which class is which status. Knows no route.

The text of an unexpected error never leaves the house: the client gets a fixed sentence, the
log the trace.
"""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from octavo.core.errors import EngineDead, EngineError, NotFound, Overloaded, Unsupported, UserError

_log = logging.getLogger(__name__)


class Problem(EngineError):
    """A refusal that exists only in HTTP: no key, too much, body too large, wrong method."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        hint: str = "",
        field: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint, field=field)
        self.status = status
        self.retry_after = retry_after


class ErrorBody(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: int


class ErrorReply(msgspec.Struct, frozen=True):
    """OpenAI's shape of every error."""

    error: ErrorBody


class _Kind(NamedTuple):
    status: int
    name: str


_KINDS: tuple[tuple[type[EngineError], _Kind], ...] = (
    (NotFound, _Kind(404, "NotFoundError")),
    (Unsupported, _Kind(400, "BadRequestError")),
    (UserError, _Kind(400, "BadRequestError")),
    (Overloaded, _Kind(503, "OverloadedError")),
    (EngineDead, _Kind(503, "ServiceUnavailableError")),
    (EngineError, _Kind(500, "InternalServerError")),
)
_NAMES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    413: "RequestTooLargeError",
    415: "BadRequestError",
    429: "RateLimitError",
    431: "RequestTooLargeError",
    503: "ServiceUnavailableError",
}


def describe(error: Exception) -> ErrorReply:
    """The wire form of any error."""
    if isinstance(error, Problem):
        kind = _Kind(error.status, _NAMES.get(error.status, "BadRequestError"))
    elif isinstance(error, EngineError):
        kind = next(kind for cls, kind in _KINDS if isinstance(error, cls))
    elif isinstance(error, HTTPException):
        kind = _Kind(error.status_code, _NAMES.get(error.status_code, "BadRequestError"))
        return ErrorReply(ErrorBody(str(error.detail), kind.name, None, kind.status))
    else:
        return ErrorReply(ErrorBody("internal error", "InternalServerError", None, 500))
    field = error.field and error.field.partition(" ")[0]  # "logit_bias key" is in logit_bias
    return ErrorReply(ErrorBody(str(error), kind.name, field, kind.status))


def error_response(error: Exception) -> Response:
    """The whole HTTP reply, with Retry-After where trying again makes sense."""
    reply = describe(error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    wait = error.retry_after if isinstance(error, Overloaded | Problem) else None
    if wait is not None:
        headers["Retry-After"] = str(max(1, math.ceil(wait)))
    elif reply.error.code == 503:
        headers["Retry-After"] = "5"
    if reply.error.code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = msgspec.json.encode(reply)
    return Response(body, status_code=reply.error.code, headers=headers, media_type="application/json")


async def handle(request: Request, error: Exception) -> Response:
    """Starlette's exception handler, for every class."""
    if describe(error).error.code == 500:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return error_response(error)
