"""The app: routes and middleware as data. What a route does is in its own file."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from octavo.server import admin, openapi, tokenize
from octavo.server.middleware.audit import Audit
from octavo.server.middleware.auth import Auth
from octavo.server.middleware.cors import cors
from octavo.server.middleware.drain import Drain
from octavo.server.middleware.limits import BodyLimit
from octavo.server.middleware.quota import QuotaGate
from octavo.server.middleware.request_id import RequestId
from octavo.server.openai import chat, completions, models
from octavo.server.openai.errors import handle
from octavo.server.openai.types import (
    ChatChunk,
    ChatReply,
    ChatRequest,
    CompletionChunk,
    CompletionReply,
    CompletionRequest,
    DetokenizeReply,
    DetokenizeRequest,
    LoadReply,
    ModelCard,
    ModelList,
    TokenizeReply,
    TokenizeRequest,
    VersionReply,
)
from octavo.server.openapi import Operation
from octavo.server.service import Service
from octavo.server.sse import ClientGone

_CLIENT_GONE = 499

Handler = Callable[[Service, Request], Awaitable[Response]]


class Entry(NamedTuple):
    """One route: where, what for, and who answers."""

    method: str
    path: str
    handler: Handler
    operation: Operation


ROUTES: tuple[Entry, ...] = (
    Entry("GET", "/v1/models", models.listing, Operation("the models served", None, (ModelList,))),
    Entry("GET", "/v1/models/{model:path}", models.one, Operation("one model", None, (ModelCard,))),
    Entry(
        "POST",
        "/v1/chat/completions",
        chat.create,
        Operation("answer a conversation", ChatRequest, (ChatReply,), (ChatChunk,)),
    ),
    Entry(
        "POST",
        "/v1/completions",
        completions.create,
        Operation("continue one text or several", CompletionRequest, (CompletionReply,), (CompletionChunk,)),
    ),
    Entry(
        "POST", "/tokenize", tokenize.tokenize, Operation("text to ids", TokenizeRequest, (TokenizeReply,))
    ),
    Entry(
        "POST",
        "/detokenize",
        tokenize.detokenize,
        Operation("ids to text", DetokenizeRequest, (DetokenizeReply,)),
    ),
    Entry(
        "GET", "/health", admin.health, Operation("200 while idle or progressing, 503 otherwise", open=True)
    ),
    Entry("GET", "/ping", admin.health, Operation("the same as /health")),
    Entry("POST", "/ping", admin.health, Operation("the same as /health")),
    Entry("GET", "/version", admin.version, Operation("the version", None, (VersionReply,))),
    Entry("GET", "/load", admin.load, Operation("rows open now", None, (LoadReply,))),
    Entry("GET", "/metrics", admin.metrics, Operation("metrics in Prometheus' format", media="text/plain")),
)


def build(service: Service) -> Starlette:
    """The ASGI app of one engine. Middleware is listed from the outside in."""
    serve = service.config.serve
    middleware = [
        Middleware(RequestId, answer=serve.enable_request_id_headers),
        Middleware(Audit, log=service.audit, bodies=serve.audit_bodies),
        Middleware(cors, config=serve),  # answers preflight requests, which carry no key
        Middleware(Auth, ring=service.ring),
        Middleware(QuotaGate),
        Middleware(Drain, traffic=service.traffic),
        Middleware(BodyLimit, most=serve.max_body_bytes, together=serve.max_bodies_bytes),
    ]
    entries = ROUTES if serve.disable_fastapi_docs else (*ROUTES, *_DOCS)
    routes = [
        Route(entry.path, functools.partial(_answer, entry.handler, service), methods=[entry.method])
        for entry in entries
    ]
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={HTTPException: handle, Exception: handle},
    )
    app.router.redirect_slashes = False  # a redirect would be built from the client's Host header
    return app


async def _answer(handler: Handler, service: Service, request: Request) -> Response:
    """Turns every error into a reply here, inside all middleware."""
    try:
        return await handler(service, request)
    except (ClientGone, ClientDisconnect):
        return Response(status_code=_CLIENT_GONE)  # for the log; nobody reads it
    except Exception as error:
        return await handle(request, error)


def operations() -> dict[tuple[str, str], Operation]:
    """What the document describes: every route, those that show it among them."""
    return {(entry.method, entry.path): entry.operation for entry in (*ROUTES, *_DOCS)}


@functools.cache
def _document(secured: bool) -> bytes:
    return msgspec.json.encode(openapi.schema(operations(), secured=secured))


async def _as_json(service: Service, request: Request) -> Response:
    return Response(_document(service.ring.closed), media_type="application/json")


async def _as_page(service: Service, request: Request) -> Response:
    return HTMLResponse(openapi.page(operations()))


_DOCS: tuple[Entry, ...] = (
    Entry("GET", "/openapi.json", _as_json, Operation("this document", media="application/json")),
    Entry("GET", "/docs", _as_page, Operation("this list for people", media="text/html")),
    Entry("GET", "/redoc", _as_page, Operation("this list for people", media="text/html")),
)
