"""Many requests driven to their end by the caller's own thread, for offline use.

Knows a synchronous client and how outputs are folded; nothing of prompts, settings or progress bars.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from octavo.core.request import Delta, EngineRequest
from octavo.front.answer import Answer
from octavo.front.collect import Collector
from octavo.front.outputs import RequestOutput
from octavo.front.params import RequestOutputKind
from octavo.front.prepared import Prepared
from octavo.observe.meter import Meter
from octavo.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)
Told = Callable[[int, int], None]  # requests that ended just now, tokens generated just now


class SyncClient(Protocol):
    """An engine in this process. `step` returns news of one turn, which may be none."""

    @property
    def busy(self) -> bool: ...
    def submit(self, requests: Iterable[EngineRequest]) -> None: ...
    def abort(self, ids: Iterable[str]) -> None: ...
    def step(self) -> list[Delta]: ...


class _Job:
    """One request under way."""

    def __init__(self, prepared: Prepared, tokenizer: Tokenizer | None, meter: Meter) -> None:
        params = prepared.params
        self.id = prepared.requests[0].id
        self.rows = [request.id for request in prepared.requests]
        self.answer = Answer(prepared, tokenizer)
        self.collector = Collector(prepared, RequestOutputKind.FINAL_ONLY)
        sampling = prepared.requests[0].sampling
        most = sampling.max_tokens if sampling is not None else 0
        self.meter = meter.begin(len(prepared.token_ids), most, params.n, meter.clock())


class Batch:
    """Requests under way and outputs not yet taken, by the id of a request's first row.

    `full`: prompt tokens that fill a step of the engine; 0 where that is not known.
    """

    def __init__(self, client: SyncClient, tokenizer: Tokenizer | None, meter: Meter, full: int = 0) -> None:
        self._client = client
        self._full = full
        self._tokenizer = tokenizer
        self._meter = meter
        self._jobs: dict[str, _Job] = {}  # by row id
        self._done: dict[str, RequestOutput] = {}

    def submit(
        self, prepared: Iterable[Prepared], begin: bool = False, told: Told = lambda ended, tokens: None
    ) -> list[str]:
        """Queues requests; they start with the next `finish`. `told` is called after each, and may raise.

        Where they are to `begin`, an engine that idles does so with the first that fill a step, and the rest
        is prepared and queued beside that step. What ends the preparing ends all of these requests.
        """
        keys: list[str] = []
        lacks = self._full if begin and not self._client.busy else 0
        try:
            for one in prepared:
                job = _Job(one, self._tokenizer, self._meter)
                self._jobs.update(dict.fromkeys(job.rows, job))
                keys.append(job.id)
                self._client.submit(one.requests)
                if lacks > 0 and (lacks := lacks - len(one.token_ids)) <= 0:
                    self._turn()
                told(0, 0)
        except BaseException:
            self._withdraw(keys)
            raise
        return keys

    def finish(self, keys: Sequence[str], told: Told = lambda ended, tokens: None) -> list[RequestOutput]:
        """Outputs of these requests, in this order. Others go on beside them and keep theirs.

        When it is interrupted every request under way is given up, so that the engine is idle again.
        """
        waiting = {key for key in keys if key not in self._done}
        try:
            if len(waiting) < len(keys):
                told(len(keys) - len(waiting), 0)
            while waiting:
                ended, tokens = self._turn()
                waiting.difference_update(ended)
                told(len(ended), tokens)
        except BaseException:
            self.cancel()
            raise
        return [self._done.pop(key) for key in keys]

    def cancel(self) -> None:
        """Gives up everything under way and waits for the step that is running."""
        self._done.clear()
        self._give_up(list(self._jobs))

    def _withdraw(self, keys: Sequence[str]) -> None:
        gone = set(keys)
        for key in gone:
            self._done.pop(key, None)
        self._give_up([row for row, job in self._jobs.items() if job.id in gone])

    def _give_up(self, rows: Sequence[str]) -> None:
        self._client.abort(rows)
        for row in rows:
            del self._jobs[row]
        while self._client.busy and not self._jobs:
            self._client.step()

    def _turn(self) -> tuple[list[str], int]:
        ended, tokens = [], 0
        for delta in self._client.step():
            job = self._jobs.get(delta.id)
            if job is None:
                continue
            tokens += self._take(job, delta)
            if job.answer.done:
                ended.append(job.id)
                self._done[job.id] = job.collector.whole()
                for row in job.rows:
                    del self._jobs[row]
        return ended, tokens

    def _take(self, job: _Job, delta: Delta) -> int:
        chunk = job.answer.feed(delta)
        if aborts := job.answer.take_aborts():
            self._client.abort(aborts)
        if chunk is None:
            return 0
        if chunk.error is not None:
            log.error("request %s failed: %s", job.id, chunk.error)
        job.collector.add(chunk)
        job.meter.tokens(chunk.index, len(chunk.token_ids))
        if chunk.cached_tokens and chunk.index == 0:
            job.meter.cached(chunk.cached_tokens)
        if chunk.finish_reason is not None:
            job.meter.finish(chunk.index, chunk.finish_reason, chunk.timeline)
        return len(chunk.token_ids)
