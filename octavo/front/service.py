"""Front: prepared requests in, chunks out, over any asynchronous client. Knows nothing of HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from typing import Protocol

from octavo.core.request import Delta, EngineRequest
from octavo.front.answer import Answer, Chunk
from octavo.front.collect import Collector
from octavo.front.outputs import RequestOutput
from octavo.front.params import RequestOutputKind
from octavo.front.prepared import Prepared
from octavo.front.prompt import PromptBuilder


class Client(Protocol):
    """What the front needs of an engine. Both calls return at once; the stream ends when every
    row of it has finished."""

    def submit(self, requests: Sequence[EngineRequest]) -> AsyncIterator[Delta]: ...
    def abort(self, ids: Iterable[str]) -> None: ...


class Front:
    """Hands requests to a client and folds what comes back."""

    def __init__(self, client: Client, builder: PromptBuilder) -> None:
        self._client = client
        self._tokenizer = builder.tokenizer

    async def generate(self, prepared: Prepared) -> AsyncGenerator[Chunk, None]:
        """Chunks of all answers as they come. The request is submitted when iteration begins;
        leaving it early (a cancelled task, `aclose`) gives its rows back to the engine."""
        client, answer = self._client, Answer(prepared, self._tokenizer)
        deltas = client.submit(prepared.requests)
        try:
            async for delta in deltas:
                chunk = answer.feed(delta)
                if aborts := answer.take_aborts():
                    client.abort(aborts)
                if chunk is not None:
                    yield chunk
                if answer.done:
                    break
        finally:
            if left := answer.unfinished():
                client.abort(left)

    async def whole(self, prepared: Prepared) -> RequestOutput:
        """The answers at their end."""
        collector = Collector(prepared, RequestOutputKind.FINAL_ONLY)
        async with contextlib.aclosing(self.generate(prepared)) as chunks:
            async for chunk in chunks:
                collector.add(chunk)
        return collector.whole()
