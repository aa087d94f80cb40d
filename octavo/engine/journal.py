"""What every open request has been told so far, and who waits for more.

Enough is kept to ask a fresh core to go on where the last one died: the request and the
tokens that were passed on. Knows nothing of processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence

import msgspec

from octavo.core.errors import EngineError
from octavo.core.request import Delta, EngineRequest, Finish

MOST_DEATHS = 2  # a request that was open when this many cores died is not tried again


class Stream:
    """Deltas of the rows of one submission, until each of them has finished."""

    def __init__(self, ids: Sequence[str]) -> None:
        self._left = set(ids)
        self._queue: asyncio.Queue[Delta | EngineError] = asyncio.Queue()

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        """The next delta of any row. Raises EngineDead when the core is lost for good."""
        if not self._left:
            raise StopAsyncIteration
        item = await self._queue.get()
        if isinstance(item, EngineError):
            self._left.clear()
            raise item
        if item.finish is not None:
            self._left.discard(item.id)
        return item

    def put(self, item: Delta | EngineError) -> None:
        self._queue.put_nowait(item)


class Entry:
    """One open row."""

    def __init__(self, request: EngineRequest, stream: Stream) -> None:
        self.request = request
        self.stream = stream
        self.sent: list[int] = []
        self.greeted = False  # cached_tokens was passed on
        self.scored = 0  # prompt log-probabilities passed on
        self.repeated = 0  # of them still to come again from a fresh core
        self.deaths = 0

    def resumed(self) -> EngineRequest:
        """The same row for a core that has never heard of it. A child of n stands alone now."""
        output = (*self.request.output, *self.sent)
        return msgspec.structs.replace(self.request, output=output, parent=None)

    def take(self, delta: Delta) -> Delta:
        """Notes what is passed on; drops what a dead core had said already."""
        self.sent += delta.tokens
        if self.deaths:
            again = min(self.repeated, len(delta.prompt_logprobs))
            self.repeated -= again
            cached = None if self.greeted else delta.cached_tokens
            fresh = delta.prompt_logprobs[again:]
            delta = msgspec.structs.replace(delta, cached_tokens=cached, prompt_logprobs=fresh)
        self.greeted = self.greeted or delta.cached_tokens is not None
        self.scored += len(delta.prompt_logprobs)
        return delta


class Journal:
    """All open rows by id."""

    def __init__(self) -> None:
        self._open: dict[str, Entry] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self, requests: Sequence[EngineRequest]) -> Stream:
        stream = Stream([request.id for request in requests])
        for request in requests:
            self._open[request.id] = Entry(request, stream)
        return stream

    def forget(self, ids: Iterable[str]) -> tuple[str, ...]:
        """Closes rows that their owner gave up: each stream gets a last Finish.ABORT.
        Returns those that were open."""
        known = tuple(id for id in ids if id in self._open)
        for id in known:
            self._open.pop(id).stream.put(Delta(id=id, finish=Finish.ABORT))
        return known

    def deliver(self, deltas: Iterable[Delta]) -> None:
        """Passes news on. News of rows nobody waits for (aborted meanwhile) is dropped."""
        for delta in deltas:
            entry = self._open.get(delta.id)
            if entry is None:
                continue
            if delta.finish is not None:
                del self._open[delta.id]
            entry.stream.put(entry.take(delta))

    def count_death(self) -> None:
        """Rows that saw too many cores die end here."""
        for id, entry in list(self._open.items()):
            entry.deaths += 1
            entry.repeated = entry.scored
            if entry.deaths > MOST_DEATHS:
                del self._open[id]
                why = f"the engine ended {entry.deaths} times while it worked on this request"
                entry.stream.put(Delta(id=id, finish=Finish.ERROR, error=why))

    def replay(self) -> tuple[EngineRequest, ...]:
        """All open rows for a fresh core, oldest first."""
        return tuple(entry.resumed() for entry in self._open.values())

    def fail(self, error: EngineError) -> None:
        """Ends every open row."""
        streams = {id(entry.stream): entry.stream for entry in self._open.values()}
        self._open.clear()
        for stream in streams.values():
            stream.put(error)
