"""Responses made without anybody waiting: started, stopped, told again. Also what enters the store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable

import msgspec

from octavo.core.errors import UserError
from octavo.server.narrate import Event, name_of, narrate, told_of
from octavo.server.openai.chat import Talk
from octavo.server.responses.events import Numbered
from octavo.server.responses.store import Record
from octavo.server.responses.write import Storyteller
from octavo.server.service import Service
from octavo.server.sse import EventStream, named

_ENCODE = msgspec.json.Encoder().encode


def keep(service: Service, story: Storyteller, record: Record) -> None:
    """Puts a response that is complete into the store."""
    _show(story, record, done=True)
    service.responses.add(record)


def start(service: Service, talk: Talk, story: Storyteller, record: Record, *, streamed: bool) -> None:
    """Takes the talk over. The record is in the store at once, and is not dropped before its end."""
    record.events = [] if streamed else None
    _show(story, record, done=False)
    service.responses.add(record)
    service.traffic.enter()
    record.task = asyncio.get_running_loop().create_task(_run(talk, story, record))

    def ended(task: asyncio.Task[None]) -> None:
        """Not in the task: one that is cancelled before its first step never runs."""
        if not story.over:
            story.drop("cancelled")
        talk.job.close()
        service.traffic.leave()
        _show(story, record, done=True)
        service.responses.tidy()

    record.task.add_done_callback(ended)


async def stop(record: Record) -> None:
    """Returns when nothing runs any more."""
    if record.task is not None:
        record.task.cancel()
        await asyncio.gather(record.task, return_exceptions=True)


def replay(service: Service, record: Record, after: int) -> EventStream:
    """The events of a response that was created as a stream in the background, from number `after` on."""
    if record.events is None:
        hint = "create it with background and stream set to true, or ask without stream"
        raise UserError("this response has no events to stream", hint=hint, field="stream")
    return EventStream(
        _replayed(record, after), heartbeat=service.config.serve.heartbeat, finally_do=lambda: None
    )


async def _replayed(record: Record, after: int) -> AsyncGenerator[bytes, None]:
    events, at = record.events or [], after + 1  # numbers count from 0
    while True:
        for told in events[at:]:
            yield told.data
        at = max(at, len(events))
        if record.done:
            return
        await record.news()


async def _run(talk: Talk, story: Storyteller, record: Record) -> None:
    try:
        _tell(record, story.open(queued=True))
        _show(story, record, done=False)
        async with contextlib.aclosing(narrate(talk, story)) as events:
            async for event in events:
                _tell(record, (event,))
    except Exception as error:
        _tell(record, story.fail(told_of(error)))


def _tell(record: Record, events: Iterable[Event]) -> None:
    for event in events:
        if record.events is not None and isinstance(event, Numbered):
            record.tell(event.sequence_number, named(name_of(event), _ENCODE(event)))


def _show(story: Storyteller, record: Record, *, done: bool) -> None:
    """What GET answers from now on, and what a later request goes on from."""
    reply = _ENCODE(story.response)
    output = msgspec.json.decode(reply)["output"] if done else []
    record.say(reply, output, done=done)
