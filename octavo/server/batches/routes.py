"""/v1/batches: create, look up, list, cancel. A tenant sees its own batches only."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from octavo.server.batches.types import BatchList, BatchQuery, BatchRequest
from octavo.server.body import Body, reply
from octavo.server.files.routes import ends, page
from octavo.server.query import read_query
from octavo.server.service import Service

_BODY = Body(BatchRequest)


async def create(service: Service, request: Request) -> Response:
    body = await _BODY.read(request)
    return reply(await service.batches.create(request.scope["tenant"], body))


async def one(service: Service, request: Request) -> Response:
    return reply(service.batches.find(request.scope["tenant"], request.path_params["batch_id"]))


async def listing(service: Service, request: Request) -> Response:
    query = read_query(request, BatchQuery)
    shown, more = page(service.batches.of(request.scope["tenant"]), query.after, query.limit)
    first, last = ends(shown)
    return reply(BatchList(data=shown, first_id=first, last_id=last, has_more=more))


async def cancel(service: Service, request: Request) -> Response:
    batch_id: str = request.path_params["batch_id"]
    return reply(await service.batches.cancel(request.scope["tenant"], batch_id))
