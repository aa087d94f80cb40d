"""Scheduler, loop and the GPU's device together, while memory comes and goes at random: whoever gets an answer
gets the right one, whoever gets none is told, and the engine is as good as before."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch

from octavo.core.facts import CacheGroup, CachePlan
from octavo.core.messages import StepMasks, StepPlan
from octavo.core.request import EngineRequest, Finish, Sampling
from octavo.engine.loop import Loop
from octavo.executor.direct import DirectExecutor
from octavo.runner.cuda.device import CudaDevice
from octavo.runner.cuda.logprobs import Logprobs
from octavo.scheduler.scheduler import Scheduler
from octavo.scheduler.state import Limits
from tests.cpu.runner.tiny import LENGTH, PAGE, PAGES, VOCAB, Rig, greedy_decode
from tests.kernels.cuda_rig import cuda_rig

ROWS, BUDGET, COUNT = 8, 24, 5


class Engine(NamedTuple):
    rig: Rig
    scheduler: Scheduler
    loop: Loop

    def run(self, requests: list[EngineRequest]) -> dict[str, tuple[list[int], Finish, str]]:
        """Tokens, end and error of each; they come two by two, while others run."""
        tokens: dict[str, list[int]] = {r.id: [] for r in requests}
        ends: dict[str, tuple[Finish, str]] = {}
        waiting = list(requests)
        while waiting or self.scheduler.busy or self.loop.in_flight:
            for _ in waiting[:2]:
                self.scheduler.add(waiting.pop(0))
            for delta in self.loop.turn():
                tokens[delta.id] += delta.tokens
                if delta.finish is not None:
                    assert delta.id not in ends
                    ends[delta.id] = delta.finish, delta.error or ""
        return {id: (tokens[id], *ends[id]) for id in tokens}


class Hand:
    """A runner around a device that is there already."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def start(self, progress: Any) -> Any:
        return None

    def forward(self, plan: StepPlan) -> None:
        self._device.forward(plan)

    def sample(self, masks: StepMasks | None) -> Any:
        return self._device.sample(masks)

    def call(self, name: str, args: dict[str, Any]) -> Any:
        raise AssertionError(name)

    def close(self) -> None:
        self._device.close()


@pytest.fixture
def engine() -> Iterator[Engine]:
    rig = cuda_rig(rows=ROWS, budget=BUDGET)
    executor = DirectExecutor(lambda: Hand(rig.device))
    executor.start(lambda stage, share: None)
    cache = CachePlan(page_bytes=1, pages=PAGES, groups=(CacheGroup("full", "full", PAGE),), max_rows=ROWS)
    scheduler = Scheduler(cache, Limits(ROWS, BUDGET, LENGTH, depth=2))
    yield Engine(rig, scheduler, Loop(scheduler, executor, 2))
    executor.close()


def drawn(r: random.Random, count: int) -> list[EngineRequest]:
    """Prompts that often begin alike, some forks of others, some that are penalised or scored."""
    stems = [[r.randrange(3, VOCAB) for _ in range(13)] for _ in range(2)]
    made: list[EngineRequest] = []
    for i in range(count):
        wish: dict[str, Any] = r.choice(
            [{}, {}, {"logprobs": 1}, {"prompt_logprobs": 1}, {"logit_bias": ((5, 0.5),)}]
        )
        tokens = tuple(r.choice(stems)[: r.choice((5, 9, 13))] + [r.randrange(3, VOCAB)] * r.randrange(3))
        parent = None
        if made and r.random() < 0.3:
            other = r.choice(made)
            tokens, parent = other.tokens, (other.id, 1)
        sampling = Sampling(temperature=0.0, max_tokens=COUNT, **wish)
        made.append(EngineRequest(id=str(i), tokens=tokens, seed=1, sampling=sampling, parent=parent))
    return made


@pytest.mark.parametrize("seed", [0, 3, 5])
def test_right_answers_or_none(engine: Engine, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    r = random.Random(seed)
    requests = drawn(r, 10)
    free = {"model": True, "draw": True, "scores": True}

    def scarce(m: pytest.MonkeyPatch, owner: type, name: str, kind: str) -> None:
        real = getattr(owner, name)

        def refusing(*args: Any) -> Any:
            if not free[kind] and r.random() < 0.6:
                raise torch.OutOfMemoryError("nothing left")
            return real(*args)

        m.setattr(owner, name, refusing)

    forward = CudaDevice.forward

    def changing(device: CudaDevice, plan: StepPlan) -> None:
        free.update({kind: r.random() < 0.85 for kind in free})
        forward(device, plan)

    plain = engine.run([r_ for r_ in requests if r_.parent is None])
    assert {finish for _, finish, _ in plain.values()} == {Finish.LENGTH}
    with monkeypatch.context() as m:
        scarce(m, CudaDevice, "_compute", "model")
        scarce(m, CudaDevice, "_choose", "draw")
        scarce(m, Logprobs, "_raw", "scores")
        scarce(m, Logprobs, "_send_prompt", "scores")
        m.setattr(CudaDevice, "forward", changing)
        assert engine.scheduler.reset_prefix_cache()
        poison(engine.rig)
        got = engine.run(requests)
    ends = {finish for _, finish, _ in got.values()}
    assert ends == {Finish.LENGTH, Finish.ERROR}
    for request in requests:
        tokens, finish, error = got[request.id]
        exact = wanted(engine, request)
        assert tokens == exact[: len(tokens)], request.id
        assert (finish is Finish.LENGTH) == (tokens == exact and not error)
        assert finish is Finish.LENGTH or "gpu_memory_utilization" in error
    after = engine.run([request for request in requests if request.parent is None])
    assert {id: (tokens, finish) for id, (tokens, finish, _) in after.items()} == {
        id: (tokens, finish) for id, (tokens, finish, _) in plain.items()
    }
    assert engine.scheduler.stats().blocks_used == 0


def poison(rig: Rig) -> None:
    """A page that is read before it is written shows."""
    for tensor in rig.device._caches._pool:
        tensor.normal_(0.0, 30.0)


def wanted(engine: Engine, request: EngineRequest) -> list[int]:
    assert request.sampling is not None
    if not request.sampling.logit_bias:
        return greedy_decode(engine.rig.model, engine.rig.backend, list(request.tokens), COUNT)
    return cuda_rig().run(list(request.tokens), temperature=0.0, max_tokens=COUNT, logit_bias=((5, 0.5),))
