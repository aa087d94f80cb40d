"""A real engine behind the real app, all in this process, that always has a stream open.

What happens beside it may delay its stream and must not change a byte of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from octavo.checkpoint.find import locate
from octavo.config.engine import EngineConfig
from octavo.core.events import CoreStats
from octavo.core.request import Delta, EngineRequest
from octavo.engine.inline import InlineClient
from octavo.front.prompt import PromptBuilder, load_text
from octavo.front.service import Front
from octavo.server.app import build
from octavo.server.service import Service
from tests.bad.sound import SETTINGS
from tests.server.asgi import Call, Reply, ask
from tests.server.fake_engine import MODEL

NAME = "neighbour"
BODY = {
    "model": MODEL,
    "prompt": "hello the world",
    "request_id": NAME,
    "stream": True,
    "seed": 3,
    "temperature": 1.0,
    "max_tokens": 16,
    "ignore_eos": True,
    "logprobs": 2,
}


class ThreadClient:
    """`InlineClient` for asynchronous callers: a thread takes the steps, the loop gets the news."""

    def __init__(self, inner: InlineClient, loop: asyncio.AbstractEventLoop) -> None:
        self.restarts = 0
        self.stats = CoreStats()
        self.submitted: list[str] = []  # row ids
        self._inner = inner
        self._loop = loop
        self._mail: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._inboxes: dict[str, asyncio.Queue[Delta]] = {}
        self._thread = threading.Thread(target=self._run, name="neighbour-engine")
        self._thread.start()

    def submit(self, requests: Sequence[EngineRequest]) -> AsyncIterator[Delta]:
        inbox: asyncio.Queue[Delta] = asyncio.Queue()
        for one in requests:
            self.submitted.append(one.id)
            self._inboxes[one.id] = inbox
        self._mail.put(lambda: self._inner.submit(requests))
        return self._deltas(inbox, {one.id for one in requests})

    def abort(self, ids: Iterable[str]) -> None:
        gone = list(ids)
        self._mail.put(lambda: self._inner.abort(gone))

    def health(self) -> str | None:
        return None

    def close(self) -> None:
        self._mail.put(None)
        self._thread.join()
        self._inner.close()

    async def _deltas(self, inbox: asyncio.Queue[Delta], waiting: set[str]) -> AsyncIterator[Delta]:
        while waiting:
            delta = await inbox.get()
            if delta.finish is not None:
                waiting.discard(delta.id)
            yield delta

    def _run(self) -> None:
        while True:
            if self._mail.empty() and self._inner.busy:
                news = self._inner.step()
                self._loop.call_soon_threadsafe(self._deliver, news)
                continue
            todo = self._mail.get()
            if todo is None:
                return
            todo()

    def _deliver(self, news: Sequence[Delta]) -> None:
        for delta in news:
            inbox = self._inboxes.get(delta.id)
            if delta.finish is not None:
                self._inboxes.pop(delta.id, None)
            if inbox is not None:
                inbox.put_nowait(delta)


class Neighbour:
    """Its streams are numbered; each is the same request, so each must be the same bytes."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="neighbour-loop")
        self._thread.start()
        names = {"model": str(folder), "served_model_name": (MODEL,), "heartbeat": 600}
        config = EngineConfig.from_flat({**SETTINGS, **names})
        files = locate(config.model)
        text = load_text(config.model, files)
        inner = InlineClient(config, files)
        self.client = ThreadClient(inner, self._loop)
        builder = PromptBuilder.of(config, text, inner.ready, draw=lambda: 5)
        front = Front(self.client, builder)
        self.service = Service(config, files, inner.ready, self.client, front, builder)
        self.service.now = lambda: 1  # type: ignore[method-assign]
        self.app = build(self.service)
        self._said: list[bytes] = []
        self._parts = 0  # of all streams so far
        self._news = threading.Condition()
        self._leaving = False
        self.quiet = self._wait(self._stream())
        self._talk = asyncio.run_coroutine_threadsafe(self._keep_talking(), self._loop)

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Reply:
        return self._wait(ask(self.app, method, path, body, **more))

    def strangers(self) -> list[str]:
        """Rows of anyone else that came through to the engine."""
        return [row for row in self.client.submitted if NAME not in row]

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """A stream is under way when this begins; it and all that followed have ended, with the
        bytes of a quiet one, when this is left."""
        with self._news:
            self._until(lambda parts=self._parts: self._parts > parts)  # type: ignore[misc]
            first = len(self._said)
        yield
        with self._news:
            last = len(self._said)
            self._until(lambda: len(self._said) > last)
            said = self._said[first:]
        assert said and all(one == self.quiet for one in said)

    def close(self) -> None:
        self._leaving = True
        self._talk.result()
        self.client.close()
        self.service.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _until(self, true: Callable[[], bool]) -> None:
        while not true():
            if self._talk.done():
                self._talk.result()
                raise AssertionError("the neighbour fell silent")
            self._news.wait(1.0)

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _keep_talking(self) -> None:
        while not self._leaving:
            said = await self._stream()
            with self._news:
                self._said.append(said)
                self._news.notify_all()

    async def _stream(self) -> bytes:
        call = Call(self.app, "POST", "/v1/completions", BODY)
        assert await call.started() == 200
        parts = []
        async for part in call.parts():
            parts.append(part)
            with self._news:
                self._parts += 1
                self._news.notify_all()
        await call.ended()
        return b"".join(parts)
