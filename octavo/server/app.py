"""The app: routes and middleware as data. What a route does is in its own file."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from octavo.server import admin, invocations, openapi, tokenize
from octavo.server.anthropic import routes as anthropic
from octavo.server.anthropic import types as anthropic_types
from octavo.server.anthropic.errors import AnthropicWords
from octavo.server.middleware.auth import Auth
from octavo.server.middleware.cors import cors
from octavo.server.middleware.drain import Drain
from octavo.server.middleware.limits import BodyLimit
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
    ModelCard,
    ModelList,
    TokenizeReply,
    TokenizeRequest,
    VersionReply,
)
from octavo.server.openapi import Operation
from octavo.server.responses import events as response_events
from octavo.server.responses import routes as responses
from octavo.server.responses import types as response_types
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
        "POST",
        "/v1/responses",
        responses.create,
        Operation(
            "answer a conversation and keep it",
            response_types.ResponseRequest,
            (response_types.Response,),
            response_events.EVENTS,
            done=False,
        ),
    ),
    Entry(
        "GET",
        "/v1/responses/{response_id}",
        responses.one,
        Operation(
            "a stored response",
            None,
            (response_types.Response,),
            response_events.EVENTS,
            query=response_types.ResponseQuery,
            done=False,
        ),
    ),
    Entry(
        "DELETE",
        "/v1/responses/{response_id}",
        responses.delete,
        Operation("forget a stored response", None, (response_types.Deleted,)),
    ),
    Entry(
        "POST",
        "/v1/responses/{response_id}/cancel",
        responses.cancel,
        Operation("stop a response made in the background", None, (response_types.Response,)),
    ),
    Entry(
        "GET",
        "/v1/responses/{response_id}/input_items",
        responses.input_items,
        Operation(
            "the conversation a response answers",
            None,
            (response_types.ItemList,),
            query=response_types.ItemsQuery,
        ),
    ),
    Entry(
        "POST",
        "/v1/messages",
        anthropic.create,
        Operation(
            "answer a conversation, in Anthropic's dialect",
            anthropic_types.MessageRequest,
            (anthropic_types.Message,),
            anthropic_types.EVENTS,
            done=False,
            problem=anthropic_types.AnthropicError,
        ),
    ),
    Entry(
        "POST",
        "/v1/messages/count_tokens",
        anthropic.count_tokens,
        Operation(
            "how long a conversation's prompt is",
            anthropic_types.CountRequest,
            (anthropic_types.CountReply,),
            problem=anthropic_types.AnthropicError,
        ),
    ),
    Entry(
        "POST",
        "/invocations",
        invocations.create,
        Operation(
            "a chat or a completion, as the body shows",
            invocations.Invocation,
            (ChatReply, CompletionReply),
            (ChatChunk, CompletionChunk),
        ),
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
    Entry("GET", "/health", admin.health, Operation("200 while idle or progressing, 503 otherwise")),
    Entry("GET", "/ping", admin.health, Operation("the same as /health")),
    Entry("POST", "/ping", admin.health, Operation("the same as /health")),
    Entry("GET", "/version", admin.version, Operation("the version", None, (VersionReply,))),
    Entry("GET", "/load", admin.load, Operation("rows open now")),
    Entry("GET", "/metrics", admin.metrics, Operation("metrics in Prometheus' format")),
)


def build(service: Service) -> Starlette:
    """The ASGI app of one engine. Middleware is listed from the outside in."""
    serve = service.config.serve
    middleware = [
        Middleware(RequestId, answer=serve.enable_request_id_headers),
        Middleware(cors, config=serve),  # answers preflight requests, which carry no key
        Middleware(AnthropicWords),
        Middleware(Auth, keys=serve.api_key),
        Middleware(Drain, traffic=service.traffic),
        Middleware(BodyLimit, most=serve.max_body_bytes),
    ]
    routes = [
        Route(entry.path, functools.partial(_answer, entry.handler, service), methods=[entry.method])
        for entry in ROUTES
    ]
    if not serve.disable_fastapi_docs:
        routes += _docs(bool(serve.api_key))
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
    except ClientGone:
        return Response(status_code=_CLIENT_GONE)  # for the log; nobody reads it
    except Exception as error:
        return await handle(request, error)


def _docs(secured: bool) -> list[Route]:
    operations = {(entry.method, entry.path.replace(":path}", "}")): entry.operation for entry in ROUTES}
    document = openapi.schema(operations, secured=secured)
    text = openapi.page(operations)

    async def as_json(request: Request) -> Response:
        return JSONResponse(document)

    async def as_page(request: Request) -> Response:
        return HTMLResponse(text)

    return [Route("/openapi.json", as_json), Route("/docs", as_page), Route("/redoc", as_page)]
