"""Holds a key to its limits, before any of its body is read."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from octavo.server.openai.errors import Problem, error_response
from octavo.server.quota import Refusal
from octavo.server.visit import visit

_FREE = ("GET", "HEAD", "OPTIONS")  # looking costs nothing, and monitoring must not run dry


class QuotaGate:
    """429 with Retry-After for a key that has used up what it may."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        account = visit().account
        if scope["type"] != "http" or scope["method"] in _FREE or account is None:
            await self._app(scope, receive, send)
            return
        if (refusal := account.quota.enter()) is not None:
            await error_response(_problem(refusal))(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            account.quota.leave()


def _problem(refusal: Refusal) -> Problem:
    return Problem(
        429,
        f"this key's limit of {refusal.what} is reached",
        hint="try again later, as Retry-After says",
        retry_after=refusal.wait,
    )
