"""From a talk to named events, streamed or whole: what the dialects that tell blocks have in common.

A narrator knows the dialect's words. The whole reply is what it has put together when the events are
over, so a stream and its whole cannot differ.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Iterable
from typing import Protocol

import msgspec

from octavo.front.answer import Chunk
from octavo.front.speech import Said
from octavo.server.openai.chat import Talk
from octavo.server.openai.errors import ErrorReply, describe
from octavo.server.openai.types import Usage
from octavo.server.sse import named

_log = logging.getLogger(__name__)


class Event(msgspec.Struct, tag_field="type", kw_only=True):
    """The base of all events on the wire; the tag is its name."""


class Narrator(Protocol):
    """One answer in a dialect's words. `chunk` is what the turns were heard in."""

    def begin(self, usage: Usage) -> Iterable[Event]: ...
    def hear(self, chunk: Chunk, turns: list[Said]) -> Iterable[Event]: ...
    def end(self, finish: str, stop: int | str | None, usage: Usage) -> Iterable[Event]: ...
    def fail(self, problem: ErrorReply) -> Iterable[Event]: ...


async def narrate(talk: Talk, narrator: Narrator, *, thoughts: bool = True) -> AsyncGenerator[Event, None]:
    """All events of an answer. Raises what ended the work. `thoughts` False: they are not told."""
    voice, begun, last = talk.voice(), False, Chunk(index=0)
    async with contextlib.aclosing(talk.job.pieces()) as pieces:
        async for piece in pieces:
            if not begun:
                begun = True
                for event in narrator.begin(talk.job.usage()):
                    yield event
            last = piece.chunk
            turns = voice.turns(last)
            if talk.plan.reasoning is not None:
                talk.job.count_thoughts(piece.prompt, last.index, voice.thought_tokens(last))
            told = turns if thoughts else [turn._replace(thought="") for turn in turns]
            for event in narrator.hear(last, told):
                yield event
    finish = told[-1].finish if begun and told[-1].finish else last.finish_reason
    for event in narrator.end(finish or "stop", last.stop_reason, talk.job.usage()):
        yield event


async def stream(
    talk: Talk, narrator: Narrator, events: AsyncGenerator[Event, None]
) -> AsyncGenerator[bytes, None]:
    """As server-sent events. An error after the first byte is told as events."""
    encode = msgspec.json.Encoder().encode
    try:
        async with contextlib.aclosing(events):
            async for event in events:
                yield named(name_of(event), encode(event))
    except Exception as error:
        for event in narrator.fail(told_of(error)):
            yield named(name_of(event), encode(event))


def told_of(error: Exception) -> ErrorReply:
    """What a client learns of an error; the log gets the rest of what is ours."""
    problem = describe(error)
    if problem.error.code == 500:
        _log.error("a stream failed", exc_info=error)
    return problem


def name_of(event: Event) -> str:
    return str(event.__struct_config__.tag)
