"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from octavo.server.body import reply
from octavo.server.openai.types import ModelCard, ModelList
from octavo.server.service import Service


async def listing(service: Service, request: Request) -> Response:
    return reply(ModelList("list", [_card(service, name) for name in service.visible()]))


async def one(service: Service, request: Request) -> Response:
    name: str = request.path_params["model"]
    service.resolve(name)
    return reply(_card(service, name))


def _card(service: Service, name: str) -> ModelCard:
    return ModelCard(
        id=name,
        object="model",
        created=service.created,
        owned_by="octavo",
        root=service.root,
        parent=None,
        max_model_len=service.ready.max_model_len,
        permission=[],
    )
