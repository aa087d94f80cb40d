"""From a job to a reply, streamed or whole. A whole answer is the folded stream: both come from
the same choices, made by the dialect's writer."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Generic, Protocol, TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from octavo.core.errors import UserError
from octavo.server.body import reply
from octavo.server.openai.errors import describe
from octavo.server.openai.job import Job, Piece
from octavo.server.openai.types import GenerateRequest, Usage
from octavo.server.service import Service
from octavo.server.sse import DONE, EventStream, event, until_gone

_log = logging.getLogger(__name__)

Choice = TypeVar("Choice")
MaybeUsage = Usage | None | UnsetType


class Head(msgspec.Struct, frozen=True):
    """What every reply of one request begins with."""

    id: str
    created: int
    model: str
    fingerprint: str


class Writer(Protocol[Choice]):
    """A dialect: news to choices, choices to chunks or to one reply."""

    def choices(self, piece: Piece) -> list[Choice]: ...
    def chunk(self, choices: list[Choice], usage: MaybeUsage) -> msgspec.Struct: ...
    def whole(self, choices: list[Choice], usage: Usage) -> msgspec.Struct: ...


class UsageRule(msgspec.Struct, frozen=True):
    """When a stream carries usage."""

    at_end: bool
    always: bool

    @classmethod
    def of(cls, body: GenerateRequest, forced: bool) -> UsageRule:
        options = body.stream_options
        if options is not None and not body.stream:
            raise UserError("stream_options needs stream", hint="set stream to true", field="stream_options")
        wanted = bool(options and options.include_usage) or forced
        return cls(wanted, wanted and bool(options and options.continuous_usage_stats))


async def respond(
    service: Service,
    request: Request,
    body: GenerateRequest,
    job: Job,
    writer: Writer[Choice],
    rule: UsageRule,
) -> Response:
    """Takes the job over: it is closed when the reply is complete or nobody wants it any more."""
    if body.stream:
        events = _Events(job, writer, rule).run()
        return EventStream(events, heartbeat=service.config.serve.heartbeat, finally_do=job.close)
    try:
        return reply(await until_gone(request.receive, _whole(job, writer)))
    finally:
        job.close()


async def _whole(job: Job, writer: Writer[Choice]) -> msgspec.Struct:
    choices: list[Choice] = []
    async with contextlib.aclosing(job.pieces()) as pieces:
        async for piece in pieces:
            choices += writer.choices(piece)
    return writer.whole(choices, job.usage())


class _Events(Generic[Choice]):
    def __init__(self, job: Job, writer: Writer[Choice], rule: UsageRule) -> None:
        self._job = job
        self._writer = writer
        self._rule = rule
        self._encode = msgspec.json.Encoder().encode

    async def run(self) -> AsyncGenerator[bytes, None]:
        """The events of the whole stream. An error after the first byte is told as an event."""
        try:
            async with contextlib.aclosing(self._job.pieces()) as pieces:
                async for piece in pieces:
                    choices = self._writer.choices(piece)
                    usage = self._usage(piece)
                    for choice in choices:
                        yield event(self._encode(self._writer.chunk([choice], usage)))
            if self._rule.at_end:
                yield event(self._encode(self._writer.chunk([], self._job.usage())))
        except Exception as error:
            problem = describe(error)
            if problem.error.code == 500:
                _log.error("a stream failed", exc_info=error)
            yield event(self._encode(problem))
        yield DONE

    def _usage(self, piece: Piece) -> MaybeUsage:
        if self._rule.always:
            return self._job.usage_of(piece.prompt, piece.chunk.index)
        return None if self._rule.at_end else UNSET
