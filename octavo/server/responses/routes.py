"""POST /v1/responses and what is asked about one later: get, cancel, delete, its input."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response as HttpResponse

from octavo.core.errors import UserError
from octavo.server.body import Body, reply
from octavo.server.narrate import Event, narrate, stream
from octavo.server.openai import chat
from octavo.server.openai.chat import Talk
from octavo.server.openai.logprobs import Names
from octavo.server.query import read_query
from octavo.server.responses import background, read
from octavo.server.responses.store import Items, Record
from octavo.server.responses.types import (
    AllowedTools,
    Deleted,
    ItemList,
    ItemsQuery,
    PlainText,
    ReasoningConfig,
    Response,
    ResponseQuery,
    ResponseRequest,
    TextConfig,
)
from octavo.server.responses.write import Storyteller, new_id
from octavo.server.service import Service
from octavo.server.sse import EventStream, until_gone

_BODY = Body(ResponseRequest)
_WEIGHT = 256  # an item costs as much work as so many characters


async def create(service: Service, request: Request) -> HttpResponse:
    started = service.meter.clock()
    body = await _BODY.read(request)
    stored = _stored(service, body)
    before = _before(service, request, body)
    items = read.items_of(body)
    size = len(await request.body()) + _WEIGHT * len(before)
    with read.own_words():
        asked = await service.off_loop(size, lambda: read.to_chat(body, before, items))
        talk = await chat.begin(
            service, request, asked, started=started, kind="resp", shorten=body.truncation == "auto"
        )
    try:
        story = _story(service, body, talk, stored)
        record = Record(
            story.response.id,
            request.scope["tenant"],
            (*before, *_with_ids(items)) if stored else (),
            service.responses.now,
            background=bool(body.background),
        )
        return await _answer(service, request, body, _Work(talk, story, record, stored))
    except BaseException:
        talk.job.close()
        raise


async def one(service: Service, request: Request) -> HttpResponse:
    """A stored response as it stands; one made in the background may be streamed."""
    record = _record(service, request)
    query = read_query(request, ResponseQuery)
    if query.stream:
        return background.replay(service, record, query.starting_after)
    return HttpResponse(record.reply, media_type="application/json")


async def cancel(service: Service, request: Request) -> HttpResponse:
    record = _record(service, request)
    if not record.background:
        hint = "create it with background set to true; to stop another one close its connection"
        raise UserError("this response is not made in the background", hint=hint, field="response_id")
    await background.stop(record)
    return HttpResponse(record.reply, media_type="application/json")


async def delete(service: Service, request: Request) -> HttpResponse:
    record = _record(service, request)
    service.responses.remove(record)
    await background.stop(record)
    return reply(Deleted(record.id))


async def input_items(service: Service, request: Request) -> HttpResponse:
    """The conversation that was answered, the newest first unless `order` is asc."""
    items = list(_record(service, request).items)
    query = read_query(request, ItemsQuery)
    if query.order == "desc":
        items.reverse()
    if query.after is not None:
        ids = [item.get("id") for item in items]
        if query.after not in ids:
            raise UserError("after names no item of this response", hint="the id of one", field="after")
        items = items[ids.index(query.after) + 1 :]
    page = [dict(item) for item in items[: query.limit]]
    ids = [item["id"] for item in page]
    return reply(
        ItemList(page, ids[0] if ids else None, ids[-1] if ids else None, has_more=len(items) > query.limit)
    )


# -- answering ----------------------------------------------------------------------------


class _Work(NamedTuple):
    talk: Talk
    story: Storyteller
    record: Record
    stored: bool


async def _answer(service: Service, request: Request, body: ResponseRequest, work: _Work) -> HttpResponse:
    talk, story, record = work.talk, work.story, work.record
    if body.background:
        background.start(service, talk, story, record, streamed=bool(body.stream))
        if not body.stream:
            return HttpResponse(record.reply, media_type="application/json")
        return background.replay(service, record, -1)
    events = _events(service, work)
    if body.stream:
        return EventStream(
            stream(talk, story, events),
            heartbeat=service.config.serve.heartbeat,
            finally_do=talk.job.close,
        )
    try:
        await until_gone(request.receive, _drained(events))
        return reply(story.response)
    finally:
        talk.job.close()


async def _events(service: Service, work: _Work) -> AsyncGenerator[Event, None]:
    """All of them; the last one comes when the response is in the store."""
    for event in work.story.open():
        yield event
    async with contextlib.aclosing(narrate(work.talk, work.story)) as events:
        async for event in events:
            if work.story.over and work.stored:
                background.keep(service, work.story, work.record)
            yield event


async def _drained(events: AsyncGenerator[Event, None]) -> None:
    async for _ in events:
        pass


# -- what a response begins with ----------------------------------------------------------


def _stored(service: Service, body: ResponseRequest) -> bool:
    """Whether it will be kept: unless the client does not want it, or there is no room at all."""
    if body.background:
        service.responses.must_keep("background")
        if body.store is False:
            hint = "leave store out, or answer in the foreground"
            raise UserError("background needs store", hint=hint, field="store")
    elif body.store:
        service.responses.must_keep("store")
    return body.store is not False and service.responses.most > 0


def _before(service: Service, request: Request, body: ResponseRequest) -> Items:
    """The conversation so far."""
    if body.previous_response_id is None:
        return ()
    field = "previous_response_id"
    record = service.responses.get(request.scope["tenant"], body.previous_response_id, field)
    if not record.done:
        raise UserError("the previous response is not complete", hint="wait for it", field=field)
    return (*record.items, *record.output)


def _with_ids(items: list[Any]) -> Items:
    """As they are listed later."""
    kinds = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
    rows = [_in_parts({**item, "type": item.get("type") or "message"}) for item in items]
    return tuple({**row, "id": row.get("id") or new_id(kinds.get(str(row["type"]), "item"))} for row in rows)


def _in_parts(item: dict[str, Any]) -> dict[str, Any]:
    """Content of messages as a list of parts, whichever way it came."""
    content = item.get("content")
    if item["type"] != "message" or not isinstance(content, str):
        return item
    kind = "output_text" if item.get("role") == "assistant" else "input_text"
    return {**item, "content": [{"type": kind, "text": content}]}


def _story(service: Service, body: ResponseRequest, talk: Talk, stored: bool) -> Storyteller:
    params, choice = talk.job.prepared[0].params, body.tool_choice
    named = talk.use.choice.mode if isinstance(choice, AllowedTools) else "auto"
    response = Response(
        id=new_id("resp"),
        created_at=talk.head.created,
        status="queued" if body.background else "in_progress",
        background=bool(body.background),
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        metadata=body.metadata or {},
        model=talk.head.model,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        previous_response_id=body.previous_response_id,
        reasoning=body.reasoning or ReasoningConfig(),
        store=stored,
        temperature=params.temperature,
        text=TextConfig((body.text and body.text.format) or PlainText()),
        tool_choice=choice or (named if body.tools else "auto"),  # type: ignore[arg-type]
        tools=body.tools or [],
        top_logprobs=body.top_logprobs or 0,
        top_p=params.top_p,
        truncation=body.truncation or "disabled",
        user=body.user,
    )
    names = Names(service.builder.tokenizer, False)
    return Storyteller(response, names, read.scored(body), service.now)


def _record(service: Service, request: Request) -> Record:
    return service.responses.get(request.scope["tenant"], request.path_params["response_id"])
