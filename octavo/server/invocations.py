"""POST /invocations: SageMaker's one route for everything; the body shows what is asked for."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from octavo.core.errors import UserError
from octavo.server.body import Body
from octavo.server.openai import chat, completions
from octavo.server.service import Service


class Invocation(msgspec.Struct, kw_only=True):
    """The body of a chat (with `messages`) or of a completion (with `prompt`)."""

    messages: Any = None
    prompt: Any = None


_BODY = Body(Invocation)


async def create(service: Service, request: Request) -> Response:
    body = await _BODY.read(request)
    if body.messages is not None and body.prompt is not None:
        raise UserError("messages and prompt are both given", hint="send one of them", field="prompt")
    if body.messages is not None:
        return await chat.create(service, request)
    if body.prompt is not None:
        return await completions.create(service, request)
    raise UserError("there is neither messages nor prompt", hint="send one of them", field="messages")
