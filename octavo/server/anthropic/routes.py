"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from octavo.server.anthropic import read
from octavo.server.anthropic.types import CountReply, CountRequest, MessageRequest, Ping, ThinkingOff
from octavo.server.anthropic.write import Messenger
from octavo.server.body import Body, reply
from octavo.server.narrate import Event, narrate, stream
from octavo.server.openai import chat
from octavo.server.service import Service
from octavo.server.sse import EventStream, named, until_gone

_BODY = Body(MessageRequest)
_COUNT = Body(CountRequest)
_BEAT = named("ping", msgspec.json.encode(Ping()))


async def create(service: Service, request: Request) -> Response:
    started = service.meter.clock()
    body = await _BODY.read(request)
    with read.own_words():
        asked = await service.off_loop(len(await request.body()), lambda: read.to_chat(service, body))
        # max_tokens must be sent here, so clients send more than there can be: it is lowered
        talk = await chat.begin(service, request, asked, started=started, kind="msg", strict=False)
    try:
        shown = isinstance(body.thinking, ThinkingOff | None) or body.thinking.display != "omitted"
        narrator = Messenger(f"msg_{secrets.token_hex(12)}", talk.head.model, shown=shown)
        events = narrate(talk, narrator, thoughts=asked.include_reasoning is not False)
        if body.stream:
            return EventStream(
                stream(talk, narrator, events),
                heartbeat=service.config.serve.heartbeat,
                finally_do=talk.job.close,
                beat=_BEAT,
            )
        await until_gone(request.receive, _drained(events))
    except BaseException:
        talk.job.close()
        raise
    talk.job.close()
    return reply(narrator.message)


async def count_tokens(service: Service, request: Request) -> Response:
    """As many as the same request would be told to have."""
    body = await _COUNT.read(request)
    with read.own_words():
        asked = await service.off_loop(len(await request.body()), lambda: read.to_chat(service, body))
        ids = await chat.tokenised(service, asked)
    return reply(CountReply(len(ids)))


async def _drained(events: AsyncGenerator[Event, None]) -> None:
    async for _ in events:
        pass
