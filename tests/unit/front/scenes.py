"""A small model's text side and a fake engine for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from octavo.core.events import CoreStats
from octavo.core.facts import CacheGroup, CachePlan, ModelFacts, Ready
from octavo.core.request import Delta, EngineRequest, Finish, PositionLogprobs
from octavo.front.defaults import Defaults
from octavo.front.prompt import PromptBuilder, TextSide
from octavo.text.chat import ChatTemplate
from tests.unit.text.vocab import CHATML, tokenizer

TOKENIZER = tokenizer()
LENGTH = 64


def ready(vocab: int = 300, length: int = LENGTH, eos: tuple[int, ...] = ()) -> Ready:
    cache = CachePlan(page_bytes=64, pages=8, groups=(CacheGroup("full", "full", 16),), max_rows=4)
    facts = ModelFacts(
        architecture="Tiny", vocab_size=vocab, max_position=length, num_layers=1, eos_token_ids=eos
    )
    return Ready(cache=cache, facts=facts, max_model_len=length, dtype="float32", attention="none")


def builder(
    *, text: bool = True, template: bool = True, defaults: Defaults | None = None, **more: Any
) -> PromptBuilder:
    side = TextSide(
        TOKENIZER if text else None,
        ChatTemplate(CHATML, TOKENIZER) if text and template else None,
        defaults or Defaults({}),
    )
    seeds = iter(range(1000, 10**6))
    facts = {name: more.pop(name) for name in ("vocab", "length", "eos") if name in more}
    return PromptBuilder(side, ready(**facts), draw=lambda: next(seeds), clock=lambda: 5.0, **more)


class Script:
    """What the fake engine says to one request: tokens, then how it ends."""

    def __init__(
        self,
        tokens: Sequence[int],
        finish: Finish = Finish.LENGTH,
        stop_token: int | None = None,
        step: int = 1,
    ) -> None:
        self.tokens = tuple(tokens)
        self.finish = finish
        self.stop_token = stop_token
        self.step = step

    def deltas(self, request: EngineRequest) -> list[Delta]:
        sampling = request.sampling
        assert sampling is not None
        parts = [self.tokens[at : at + self.step] for at in range(0, len(self.tokens), self.step)] or [()]
        last = len(parts) - 1
        return [
            Delta(
                id=request.id,
                tokens=part,
                logprobs=_scores(part) if sampling.logprobs is not None else (),
                prompt_logprobs=_scores(request.tokens[1:])
                if sampling.prompt_logprobs is not None and at == 0
                else (),
                cached_tokens=3 if at == 0 else None,
                finish=self.finish if at == last else None,
                stop_token=self.stop_token if at == last else None,
            )
            for at, part in enumerate(parts)
        ]


def _scores(tokens: Iterable[int]) -> tuple[PositionLogprobs, ...]:
    return tuple(PositionLogprobs(token, -1.5, 2, (9, token), (-0.5, -1.5)) for token in tokens)


class FakeSyncClient:
    """An engine in this process: each step gives every open row its next delta."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.left: dict[str, list[Delta]] = {}
        self.aborted: list[str] = []
        self.seen: list[EngineRequest] = []

    @property
    def busy(self) -> bool:
        return bool(self.left)

    def submit(self, requests: Iterable[EngineRequest]) -> None:
        for request in requests:
            self.seen.append(request)
            self.left[request.id] = self.script.deltas(request)

    def abort(self, ids: Iterable[str]) -> None:
        for id in ids:
            self.aborted.append(id)
            self.left.pop(id, None)

    def step(self) -> list[Delta]:
        news = [deltas.pop(0) for deltas in self.left.values()]
        self.left = {id: deltas for id, deltas in self.left.items() if deltas}
        return news

    def stats(self) -> CoreStats:
        return CoreStats(prefix_queries=7)


class FakeClient:
    """An asynchronous engine. `pace` is waited for before each delta."""

    def __init__(self, script: Script, pace: asyncio.Semaphore | None = None) -> None:
        self.script = script
        self.pace = pace
        self.aborted: list[str] = []
        self.submitted: list[str] = []

    def submit(self, requests: Sequence[EngineRequest]) -> Any:
        self.submitted += [request.id for request in requests]
        rows = [self.script.deltas(request) for request in requests]
        return self._stream([delta for column in zip(*rows, strict=True) for delta in column])

    async def _stream(self, deltas: list[Delta]) -> Any:
        for delta in deltas:
            if delta.id in self.aborted:
                continue
            if self.pace is not None:
                await self.pace.acquire()
            yield delta

    def abort(self, ids: Iterable[str]) -> None:
        self.aborted += list(ids)
