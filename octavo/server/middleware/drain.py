"""Counts requests in progress and, once the server is leaving, refuses new ones."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from octavo.server.openai.errors import Problem, error_response


class Traffic:
    """How many requests are in progress, and whether more may come. One per app."""

    def __init__(self) -> None:
        self.open = 0
        self.came = 0  # requests so far
        self.leaving = False
        self._quiet = asyncio.Event()
        self._quiet.set()

    def enter(self) -> None:
        self.open += 1
        self.came += 1
        self._quiet.clear()

    def leave(self) -> None:
        self.open -= 1
        if not self.open:
            self._quiet.set()

    async def quiet(self) -> None:
        """Returns when no request is in progress."""
        await self._quiet.wait()


class Drain:
    def __init__(self, app: ASGIApp, *, traffic: Traffic) -> None:
        self._app = app
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._traffic.leaving:
            response = error_response(Problem(503, "the server is shutting down", hint="ask another one"))
            response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        self._traffic.enter()
        try:
            await self._app(scope, receive, send)
        finally:
            self._traffic.leave()
