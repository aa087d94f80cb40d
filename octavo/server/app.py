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

from octavo.server import admin, invocations, openapi, tokenize
from octavo.server.anthropic import routes as anthropic
from octavo.server.anthropic import types as anthropic_types
from octavo.server.anthropic.errors import AnthropicWords, retold, spoken
from octavo.server.batches import routes as batches
from octavo.server.batches.batches import Batches
from octavo.server.batches.dispatch import Dispatch, Owner
from octavo.server.batches.types import BatchList, BatchObject, BatchQuery, BatchRequest
from octavo.server.files import routes as files
from octavo.server.files.types import FileDeleted, FileForm, FileList, FileObject, FileQuery
from octavo.server.files.upload import FORM_ROOM
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
    ProfileReply,
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
    batch: bool = False  # whether lines of a batch may name it


ROUTES: tuple[Entry, ...] = (
    Entry("GET", "/v1/models", models.listing, Operation("the models served", None, (ModelList,))),
    Entry("GET", "/v1/models/{model:path}", models.one, Operation("one model", None, (ModelCard,))),
    Entry(
        "POST",
        "/v1/chat/completions",
        chat.create,
        Operation("answer a conversation", ChatRequest, (ChatReply,), (ChatChunk,)),
        batch=True,
    ),
    Entry(
        "POST",
        "/v1/completions",
        completions.create,
        Operation("continue one text or several", CompletionRequest, (CompletionReply,), (CompletionChunk,)),
        batch=True,
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
        batch=True,
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
        batch=True,
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
        batch=True,
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
    Entry("POST", "/v1/files", files.create, Operation("keep a file", replies=(FileObject,), form=FileForm)),
    Entry("GET", "/v1/files", files.listing, Operation("your files", replies=(FileList,), query=FileQuery)),
    Entry("GET", "/v1/files/{file_id}", files.one, Operation("one file", None, (FileObject,))),
    Entry("DELETE", "/v1/files/{file_id}", files.delete, Operation("delete a file", None, (FileDeleted,))),
    Entry(
        "GET",
        "/v1/files/{file_id}/content",
        files.content,
        Operation("a file's bytes", media="application/octet-stream"),
    ),
    Entry(
        "POST",
        "/v1/batches",
        batches.create,
        Operation("answer a file of requests", BatchRequest, (BatchObject,)),
    ),
    Entry(
        "GET",
        "/v1/batches",
        batches.listing,
        Operation("your batches", replies=(BatchList,), query=BatchQuery),
    ),
    Entry("GET", "/v1/batches/{batch_id}", batches.one, Operation("one batch", None, (BatchObject,))),
    Entry(
        "POST",
        "/v1/batches/{batch_id}/cancel",
        batches.cancel,
        Operation("end a batch early", None, (BatchObject,)),
    ),
    Entry(
        "GET", "/health", admin.health, Operation("200 while idle or progressing, 503 otherwise", open=True)
    ),
    Entry("GET", "/ping", admin.health, Operation("the same as /health")),
    Entry("POST", "/ping", admin.health, Operation("the same as /health")),
    Entry("GET", "/version", admin.version, Operation("the version", None, (VersionReply,))),
    Entry("GET", "/load", admin.load, Operation("rows open now", None, (LoadReply,))),
    Entry("GET", "/metrics", admin.metrics, Operation("metrics in Prometheus' format", media="text/plain")),
    Entry(
        "POST",
        "/start_profile",
        admin.start_profile,
        Operation("begin a trace of the device", None, (ProfileReply,)),
    ),
    Entry(
        "POST",
        "/stop_profile",
        admin.stop_profile,
        Operation("end it and write the trace", None, (ProfileReply,)),
    ),
)


def build(service: Service) -> Starlette:
    """The ASGI app of one engine. Middleware is listed from the outside in."""
    serve = service.config.serve
    middleware = [
        Middleware(RequestId, answer=serve.enable_request_id_headers),
        Middleware(Audit, log=service.audit, bodies=serve.audit_bodies),
        Middleware(cors, config=serve),  # answers preflight requests, which carry no key
        Middleware(AnthropicWords),
        Middleware(Auth, ring=service.ring),
        Middleware(QuotaGate),
        Middleware(Drain, traffic=service.traffic),
        Middleware(
            BodyLimit,
            most=serve.max_body_bytes,
            together=serve.max_bodies_bytes,
            larger={"/v1/files": _largest_form(service)},
        ),
    ]
    ways = dispatch(service, service.ring.owner)
    service.batches = Batches(service.files, ways, batch_rows(service), serve.max_body_bytes)
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


def dispatch(service: Service, owner: Owner) -> Dispatch:
    """The routes that lines of a batch may name, behind all live requests."""
    aside = service.aside()
    table = {entry.path: functools.partial(_answer_line, entry, aside) for entry in ROUTES if entry.batch}
    return Dispatch(table, service.health, owner)


def batch_rows(service: Service) -> int:
    """How many requests of batches may be in the engine at once."""
    wanted, rows = service.config.files.batch_rows, service.ready.cache.max_rows
    return max(1, rows * 3 // 4) if wanted is None else wanted


def _largest_form(service: Service) -> int:
    return service.config.files.max_file_bytes + FORM_ROOM


async def _answer(handler: Handler, service: Service, request: Request) -> Response:
    """Turns every error into a reply here, inside all middleware."""
    try:
        return await handler(service, request)
    except (ClientGone, ClientDisconnect):
        return Response(status_code=_CLIENT_GONE)  # for the log; nobody reads it
    except Exception as error:
        return await handle(request, error)


async def _answer_line(entry: Entry, service: Service, request: Request) -> Response:
    """A line of a batch, which has no middleware around it: errors are told as the route would."""
    response = await _answer(entry.handler, service, request)
    return retold(response, request.scope["request_id"]) if spoken(entry.path) else response


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
