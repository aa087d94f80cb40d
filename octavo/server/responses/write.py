"""What an answer says, as items and events of a response. Knows no route and no store."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from octavo.front.answer import Chunk
from octavo.front.speech import CallPiece, Said
from octavo.server.narrate import Event
from octavo.server.openai.errors import ErrorReply
from octavo.server.openai.logprobs import Names, chat_logprobs
from octavo.server.openai.types import TokenLogprob, Usage
from octavo.server.responses import events as e
from octavo.server.responses.types import (
    FunctionCall,
    Incomplete,
    InputDetails,
    Item,
    Message,
    OutputDetails,
    OutputText,
    Reasoning,
    ReasoningText,
    Response,
    ResponseFailure,
    ResponseUsage,
)


def new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(24)}"


class Storyteller:
    """Keeps `response` as it is told so far; its items are complete once their events are.

    `scored`: log-probabilities of the text are told, with so many alternatives.
    """

    def __init__(self, response: Response, names: Names, scored: int | None, now: Callable[[], int]) -> None:
        self.response = response
        self._names = names
        self._scored = scored
        self._now = now
        self._count = 0
        self._open: Item | None = None
        self._call = -1  # number of the call that is open
        self._text: list[str] = []
        self._waiting: list[TokenLogprob] = []  # of tokens whose text is not certain yet
        self._logprobs: list[TokenLogprob] = []

    # -- the life of a response -----------------------------------------------------------

    def open(self, *, queued: bool = False) -> Iterator[Event]:
        """Before anything was said."""
        yield self._number(e.Created, response=self.snapshot())
        if queued:
            yield self._number(e.Queued, response=self.snapshot())
        self.response.status = "in_progress"
        yield self._number(e.InProgress, response=self.snapshot())

    def begin(self, usage: Usage) -> Iterator[Event]:
        yield from ()

    def hear(self, chunk: Chunk, turns: Sequence[Said]) -> Iterator[Event]:
        if self._scored is not None:
            self._waiting += chat_logprobs(chunk.logprobs or (), self._scored, self._names).content or []
        for said in turns:
            if said.thought:
                yield from self._think(said.thought)
            if said.text:
                yield from self._say(said.text)
            for piece in said.calls:
                yield from self._ask(piece)

    def end(self, finish: str, stop: int | str | None, usage: Usage) -> Iterator[Event]:
        response, cut = self.response, finish == "length"
        if self._open is None and not response.output:
            yield from self._start(Message(id=new_id("msg"), status="in_progress", content=[]))
        yield from self._close("incomplete" if cut else "completed")
        response.usage = _usage(usage)
        response.completed_at = None if cut else self._now()
        response.status = "incomplete" if cut else "completed"
        response.incomplete_details = Incomplete("max_output_tokens") if cut else None
        yield self._number(e.EndedEarly if cut else e.Completed, response=self.snapshot())

    def fail(self, problem: ErrorReply) -> Iterator[Event]:
        ours = problem.error.code >= 500
        self.drop("failed")
        self.response.error = ResponseFailure(
            "server_error" if ours else "invalid_prompt", problem.error.message
        )
        yield self._number(e.Failed, response=self.snapshot())

    @property
    def over(self) -> bool:
        return self.response.status not in ("queued", "in_progress")

    def drop(self, status: Any) -> None:
        """Nothing more will be said; what was open stays as it is."""
        if self._open is not None:
            self.response.output.append(self._finished("incomplete"))
            self._open = None
        self.response.status = status

    def snapshot(self) -> Response:
        return msgspec.structs.replace(self.response, output=list(self.response.output))

    # -- items ----------------------------------------------------------------------------

    def _say(self, text: str) -> Iterator[Event]:
        if not isinstance(self._open, Message):
            yield from self._close("completed")
            yield from self._start(Message(id=new_id("msg"), status="in_progress", content=[]))
        self._text.append(text)
        told, self._waiting = self._waiting, []
        self._logprobs += told
        yield self._number(e.TextDelta, **self._place(), content_index=0, delta=text, logprobs=told)

    def _think(self, text: str) -> Iterator[Event]:
        if not isinstance(self._open, Reasoning):
            yield from self._close("completed")
            yield from self._start(Reasoning(id=new_id("rs"), status="in_progress", content=[]))
        self._waiting.clear()
        self._text.append(text)
        yield self._number(e.ThoughtDelta, **self._place(), content_index=0, delta=text)

    def _ask(self, piece: CallPiece) -> Iterator[Event]:
        self._waiting.clear()
        if piece.id is not None and piece.name is not None:
            yield from self._close("completed")
            self._call = piece.at
            yield from self._start(
                FunctionCall(
                    id=new_id("fc"),
                    status="in_progress",
                    call_id=piece.id,
                    name=piece.name,
                    arguments="",
                )
            )
        assert isinstance(self._open, FunctionCall) and piece.at == self._call, "calls come one by one"
        if piece.arguments:
            self._text.append(piece.arguments)
            yield self._number(e.ArgumentsDelta, **self._place(), delta=piece.arguments)

    def _start(self, item: Item) -> Iterator[Event]:
        self._open, self._text, self._logprobs = item, [], []
        yield self._number(e.ItemAdded, output_index=self._at, item=item)
        if isinstance(item, Message):
            yield self._number(e.PartAdded, **self._place(), content_index=0, part=self._part([]))
        elif isinstance(item, Reasoning):
            yield self._number(e.PartAdded, **self._place(), content_index=0, part=ReasoningText())

    def _close(self, status: Any) -> Iterator[Event]:
        """Ends the item that is open, if one is."""
        if self._open is None:
            return
        done = self._finished(status)
        place = self._place()
        if isinstance(done, Message):
            (part,) = done.content
            yield self._number(
                e.TextDone, **place, content_index=0, text=part.text, logprobs=part.logprobs or []
            )
            yield self._number(e.PartDone, **place, content_index=0, part=part)
        elif isinstance(done, Reasoning):
            yield self._number(e.ThoughtDone, **place, content_index=0, text=done.content[0].text)
            yield self._number(e.PartDone, **place, content_index=0, part=done.content[0])
        else:
            yield self._number(e.ArgumentsDone, **place, name=done.name, arguments=done.arguments)
        yield self._number(e.ItemDone, output_index=self._at, item=done)
        self.response.output.append(done)
        self._open = None

    def _finished(self, status: Any) -> Item:
        """The open item with all that was said in it."""
        item, text = self._open, "".join(self._text)
        if isinstance(item, Message):
            part = self._part(self._logprobs)
            part.text = text
            return msgspec.structs.replace(item, status=status, content=[part])
        if isinstance(item, Reasoning):
            return msgspec.structs.replace(item, status=status, content=[ReasoningText(text)])
        assert isinstance(item, FunctionCall)
        return msgspec.structs.replace(item, status=status, arguments=text)

    def _part(self, logprobs: list[TokenLogprob]) -> OutputText:
        return OutputText(logprobs=UNSET if self._scored is None else list(logprobs))

    @property
    def _at(self) -> int:
        return len(self.response.output)

    def _place(self) -> dict[str, Any]:
        assert self._open is not None
        return {"item_id": self._open.id, "output_index": self._at}

    def _number(self, kind: Callable[..., Event], **facts: Any) -> Event:
        event = kind(sequence_number=self._count, **facts)
        self._count += 1
        return event


def _usage(usage: Usage) -> ResponseUsage:
    cached = usage.prompt_tokens_details
    thought = usage.completion_tokens_details
    return ResponseUsage(
        usage.prompt_tokens,
        InputDetails(cached.cached_tokens if cached else 0),
        usage.completion_tokens,
        OutputDetails(thought.reasoning_tokens if thought else 0),
        usage.total_tokens,
    )
