"""What an answer says, as blocks and events of a message. Knows no route."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import msgspec

from octavo.front.answer import Chunk
from octavo.front.speech import CallPiece, Said
from octavo.server.anthropic import types as t
from octavo.server.anthropic.errors import facts
from octavo.server.anthropic.partial import certain
from octavo.server.narrate import Event
from octavo.server.openai.errors import ErrorReply
from octavo.server.openai.types import Usage

_NO_USAGE = t.Usage(0, 0)


class Messenger:
    """Keeps `message` as it is told so far. `shown` False: thinking is told of, not its words."""

    def __init__(self, id: str, model: str, *, shown: bool = True) -> None:
        self.message = t.Message(id=id, model=model, usage=_NO_USAGE)
        self._shown = shown
        self._open: t.Block | None = None
        self._text: list[str] = []

    def begin(self, usage: Usage) -> Iterator[Event]:
        self.message.usage = _usage(usage)
        yield t.MessageStart(message=msgspec.structs.replace(self.message, content=[]))
        yield t.Ping()

    def hear(self, chunk: Chunk, turns: Sequence[Said]) -> Iterator[Event]:
        for said in turns:
            if said.thought:
                yield from self._think(said.thought)
            if said.text:
                yield from self._say(said.text)
            for piece in said.calls:
                yield from self._ask(piece)

    def end(self, finish: str, stop: int | str | None, usage: Usage) -> Iterator[Event]:
        yield from self._close()
        message = self.message
        message.usage = _usage(usage)
        message.stop_reason = self._reason(finish, stop)
        message.stop_sequence = stop if isinstance(stop, str) else None
        delta = t.StopDelta(message.stop_reason, message.stop_sequence)
        yield t.MessageDelta(delta=delta, usage=message.usage)
        yield t.MessageStop()

    def fail(self, problem: ErrorReply) -> Iterator[Event]:
        yield t.ErrorEvent(error=facts(problem))

    def _reason(self, finish: str, stop: int | str | None) -> t.StopReason:
        if finish == "length":
            return "max_tokens"
        if isinstance(stop, str):
            return "stop_sequence"
        called = any(isinstance(block, t.ToolUse) for block in self.message.content)
        return "tool_use" if called else "end_turn"

    # -- blocks ---------------------------------------------------------------------------

    def _say(self, text: str) -> Iterator[Event]:
        if not isinstance(self._open, t.Text):
            yield from self._start(t.Text())
        yield self._more(t.TextDelta(text), text)

    def _think(self, text: str) -> Iterator[Event]:
        if not isinstance(self._open, t.Thinking):
            yield from self._start(t.Thinking())
        told = self._more(t.ThinkingDelta(text), text)
        if self._shown:
            yield told

    def _ask(self, piece: CallPiece) -> Iterator[Event]:
        if piece.id is not None and piece.name is not None:
            yield from self._start(t.ToolUse(piece.id, piece.name))
        if piece.arguments:
            yield self._more(t.JsonDelta(piece.arguments), piece.arguments)

    def _start(self, block: t.Block) -> Iterator[Event]:
        yield from self._close()
        self._open, self._text = block, []
        yield t.BlockStart(index=self._at, content_block=block)

    def _more(self, delta: t.TextDelta | t.ThinkingDelta | t.JsonDelta, text: str) -> Event:
        self._text.append(text)
        return t.BlockDelta(index=self._at, delta=delta)

    def _close(self) -> Iterator[Event]:
        """Ends the block that is open, if one is."""
        if self._open is None:
            return
        block, text = self._open, "".join(self._text)
        if isinstance(block, t.Text):
            block = t.Text(text)
        elif isinstance(block, t.Thinking):
            block = t.Thinking(text if self._shown else "", hashlib.sha256(text.encode()).hexdigest())
            yield t.BlockDelta(index=self._at, delta=t.SignatureDelta(block.signature))
        else:
            block = t.ToolUse(block.id, block.name, certain(text))
        yield t.BlockStop(index=self._at)
        self.message.content.append(block)
        self._open = None

    @property
    def _at(self) -> int:
        return len(self.message.content)


def _usage(usage: Usage) -> t.Usage:
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
    return t.Usage(usage.prompt_tokens - cached, usage.completion_tokens, cached)
