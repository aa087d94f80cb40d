"""One HTTP request at work: its prompts in the engine, its usage, its place in the queue.

The same for every dialect; knows nothing of replies' shapes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple

import msgspec
from msgspec import UNSET

from octavo.core.errors import EngineError, Fault, UserError
from octavo.front.answer import Chunk
from octavo.front.logprobs import Logprob
from octavo.front.prepared import Prepared
from octavo.observe.meter import RequestMeter
from octavo.server.gate import Ticket
from octavo.server.openai.types import CompletionTokensDetails, PromptTokensDetails, Usage
from octavo.server.service import Service
from octavo.server.visit import visit

_log = logging.getLogger(__name__)


class Piece(NamedTuple):
    """News of one row: which prompt, and what."""

    prompt: int
    chunk: Chunk


class Job:
    """Owns the ticket: `close` gives the places back, however the request ended."""

    def __init__(
        self, service: Service, prepared: Sequence[Prepared], ticket: Ticket, started: float
    ) -> None:
        self.prepared = tuple(prepared)
        self.prompt_logprobs: list[list[dict[int, Logprob] | None]] = [[] for _ in self.prepared]
        self._service = service
        self._ticket = ticket
        self._meters = [_begin(service, one, started) for one in self.prepared]
        self._cached = [0] * len(self.prepared)
        self._tokens: dict[tuple[int, int], int] = {
            (at, row): 0 for at, one in enumerate(self.prepared) for row in range(len(one.requests))
        }
        self._thoughts: dict[tuple[int, int], int] | None = None
        self._open = set(self._tokens)
        self._visit = visit()
        self._visit.use(prompt=sum(len(one.token_ids) for one in self.prepared))
        if service.config.observe.enable_log_requests:
            for one in self.prepared:
                _log.info("%s: %d prompt tokens, %s", one.id, len(one.token_ids), _parameters(one))

    def close(self) -> None:
        self._ticket.release()

    def count_thoughts(self, prompt: int, row: int, tokens: int) -> None:
        """Tokens of reasoning; usage tells of them once somebody has counted."""
        if self._thoughts is None:
            self._thoughts = dict.fromkeys(self._tokens, 0)
        self._thoughts[prompt, row] += tokens

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """News of all rows, in the order it comes. Closing it stops what still runs.

        Raises what ended the work: EngineDead, or UserError or Fault when a row ended with an error.
        """
        reason = "error"
        try:
            async with contextlib.aclosing(self._merged()) as merged:
                async for piece in merged:
                    self._count(piece)
                    yield piece
        except (asyncio.CancelledError, GeneratorExit):
            reason = "abort"
            raise
        finally:
            for at, row in self._open:
                self._meters[at].finish(row, reason)
            self._open.clear()

    def usage(self) -> Usage:
        """Of the whole request."""
        prompt = sum(len(one.token_ids) for one in self.prepared)
        thoughts = None if self._thoughts is None else sum(self._thoughts.values())
        return self._usage(prompt, sum(self._tokens.values()), sum(self._cached), thoughts)

    def usage_of(self, prompt: int, row: int) -> Usage:
        """Of one choice so far."""
        tokens = len(self.prepared[prompt].token_ids)
        thoughts = None if self._thoughts is None else self._thoughts[prompt, row]
        return self._usage(tokens, self._tokens[prompt, row], self._cached[prompt], thoughts)

    def _usage(self, prompt: int, completion: int, cached: int, thoughts: int | None) -> Usage:
        shown = self._service.config.serve.enable_prompt_tokens_details
        details = PromptTokensDetails(cached) if shown else None
        thought = UNSET if thoughts is None else CompletionTokensDetails(thoughts)
        return Usage(prompt, prompt + completion, completion, details, thought)

    def _count(self, piece: Piece) -> None:
        at, chunk = piece
        meter, row = self._meters[at], chunk.index
        if chunk.cached_tokens is not None and chunk.cached_tokens > self._cached[at]:
            meter.cached(chunk.cached_tokens - self._cached[at])
            self._cached[at] = chunk.cached_tokens
        if chunk.prompt_logprobs and row == 0:
            self.prompt_logprobs[at] += chunk.prompt_logprobs
        self._tokens[at, row] += len(chunk.token_ids)
        self._visit.use(completion=len(chunk.token_ids))
        meter.tokens(row, len(chunk.token_ids))
        if chunk.finish_reason is not None:
            self._open.discard((at, row))
            meter.finish(row, chunk.finish_reason, chunk.timeline)
        if chunk.finish_reason == "error":
            raise failure(chunk)

    async def _merged(self) -> AsyncGenerator[Piece, None]:
        streams = [self._service.front.generate(one) for one in self.prepared]
        if len(streams) == 1:
            async with contextlib.aclosing(streams[0]) as stream:
                async for chunk in stream:
                    yield Piece(0, chunk)
            return
        async with contextlib.aclosing(_merge(streams)) as merged:
            async for piece in merged:
                yield piece


def failure(chunk: Chunk) -> EngineError:
    """What ended a row that ended with an error."""
    why = chunk.error or "the request failed in the engine"
    return UserError(why) if chunk.refused else Fault(why)


async def _merge(streams: Sequence[AsyncGenerator[Chunk, None]]) -> AsyncGenerator[Piece, None]:
    queue: asyncio.Queue[Piece | BaseException | None] = asyncio.Queue()

    async def pump(at: int, stream: AsyncGenerator[Chunk, None]) -> None:
        try:
            async with contextlib.aclosing(stream) as chunks:
                async for chunk in chunks:
                    queue.put_nowait(Piece(at, chunk))
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.ensure_future(pump(at, stream)) for at, stream in enumerate(streams)]
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _parameters(prepared: Prepared) -> str:
    """For the log: numbers only, nothing the user wrote."""
    fields = msgspec.structs.asdict(prepared.requests[0].sampling) if prepared.requests[0].sampling else {}
    numbers = {name: value for name, value in fields.items() if isinstance(value, int | float)}
    return ", ".join(f"{name}={value}" for name, value in {"n": len(prepared.requests), **numbers}.items())


def _begin(service: Service, prepared: Prepared, started: float) -> RequestMeter:
    sampling = prepared.requests[0].sampling
    most = sampling.max_tokens if sampling else 0
    return service.meter.begin(len(prepared.token_ids), most, len(prepared.requests), started)
