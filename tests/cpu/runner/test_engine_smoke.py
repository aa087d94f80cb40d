"""Scheduler, loop, executor thread and runner with the default model, against full recomputation.

One loaded model serves every case; each case has a scheduler of its own, so limits can differ.
Counters prove that what a case is about really happened.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import pytest
import torch

from octavo.config.engine import EngineConfig
from octavo.core.events import CoreStats
from octavo.core.facts import ModelFiles, Ready
from octavo.core.request import EngineRequest, Finish, PositionLogprobs, Sampling
from octavo.engine.loop import Loop
from octavo.executor.inline import InlineExecutor
from octavo.runner.runner import Runner
from octavo.scheduler.scheduler import Scheduler
from octavo.scheduler.state import Limits
from octavo.text.tokenizer import Tokenizer
from tests.cpu.runner.tiny import greedy_decode, whole_logits
from tests.e2e.prompts import draw

COUNT = 8
SEEDED = dict(temperature=0.9, top_p=0.95, max_tokens=COUNT)
SETTINGS = dict(dtype="float32", max_model_len=512, max_num_seqs=16, num_gpu_blocks_override=300)


class Engine(NamedTuple):
    runner: Runner
    executor: InlineExecutor
    ready: Ready
    prompts: list[tuple[int, ...]]
    greedy: list[list[int]]  # by full recomputation


class Outcome(NamedTuple):
    tokens: dict[str, list[int]]
    finish: dict[str, Finish]
    cached: dict[str, int]
    logprobs: dict[str, list[PositionLogprobs]]
    prompt_logprobs: dict[str, list[PositionLogprobs]]
    stats: CoreStats


@pytest.fixture(scope="module")
def engine(default_model: ModelFiles) -> Iterator[Engine]:
    runner = Runner(EngineConfig.from_flat(dict(SETTINGS)), default_model)
    executor = InlineExecutor(lambda: runner)
    try:
        ready = executor.start(lambda stage, share: None)
        tokenizer = Tokenizer.load(default_model.tokenizer)
        prompts = [tuple(tokenizer.encode(text)) for text in draw(3, seed=3)]
        prompts.append(
            tuple(tokenizer.encode(" ".join(draw(20, seed=5))))[:75]
        )  # longer than two of the budgets
        model, backend = runner._started()._model, runner._started()._backend
        greedy = [greedy_decode(model, backend, list(prompt), COUNT) for prompt in prompts]
        yield Engine(runner, executor, ready, prompts, greedy)
    finally:
        executor.close()


def run(
    engine: Engine,
    requests: list[EngineRequest],
    *,
    depth: int = 2,
    pages: int = 300,
    waves: int = 1,
    **given: Any,
) -> Outcome:
    """All requests at once, `waves` times over with the same scheduler."""
    limits = dict(max_rows=16, budget=2048, max_model_len=512, depth=depth)
    cache = msgspec.structs.replace(engine.ready.cache, pages=pages)
    scheduler = Scheduler(cache, Limits(**{**limits, **given}))
    loop = Loop(scheduler, engine.executor, depth)
    out = Outcome({}, {}, {}, {}, {}, CoreStats())
    for wave in range(waves):
        for request in requests:
            scheduler.add(
                msgspec.structs.replace(request, id=request.id if wave == 0 else f"{request.id}+{wave}")
            )
        while scheduler.busy or loop.in_flight:
            for delta in loop.turn():
                out.tokens.setdefault(delta.id, []).extend(delta.tokens)
                out.logprobs.setdefault(delta.id, []).extend(delta.logprobs)
                out.prompt_logprobs.setdefault(delta.id, []).extend(delta.prompt_logprobs)
                if delta.cached_tokens is not None:
                    out.cached[delta.id] = delta.cached_tokens
                if delta.finish is not None:
                    out.finish[delta.id] = delta.finish
    stats = scheduler.stats()
    assert stats.blocks_used == 0, "blocks leaked"
    return out._replace(stats=stats)


def greedy_requests(engine: Engine, **sampling: Any) -> list[EngineRequest]:
    s = Sampling(**{**dict(temperature=0.0, max_tokens=COUNT), **sampling})
    return [EngineRequest(id=str(i), tokens=p, seed=0, sampling=s) for i, p in enumerate(engine.prompts)]


def seeded_requests(engine: Engine, **sampling: Any) -> list[EngineRequest]:
    s = Sampling(**{**SEEDED, **sampling})
    return [
        EngineRequest(id=str(i), tokens=p, seed=100 + i, sampling=s) for i, p in enumerate(engine.prompts)
    ]


def listed(outcome: Outcome) -> list[list[int]]:
    return [outcome.tokens[key] for key in sorted(outcome.tokens, key=int)]


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("budget", [16, 64, 2048])
def test_greedy_tokens_equal_full_recomputation(engine, budget, depth):
    outcome = run(engine, greedy_requests(engine), budget=budget, depth=depth, prefix_caching=False)
    assert listed(outcome) == engine.greedy
    assert set(outcome.finish.values()) == {Finish.LENGTH}
    longest = sum(map(len, engine.prompts))
    assert outcome.stats.prompt_tokens == longest
    assert outcome.stats.steps >= longest / budget
    assert (outcome.stats.overlapped > 0) == (depth == 2)
    assert outcome.stats.prefix_hits == 0


def test_prefix_hits_change_nothing(engine):
    outcome = run(engine, greedy_requests(engine), waves=2)
    for i, want in enumerate(engine.greedy):
        assert outcome.tokens[str(i)] == outcome.tokens[f"{i}+1"] == want
    assert outcome.stats.prefix_hits >= 64
    assert outcome.cached["3"] == 0 < outcome.cached["3+1"]


def tight(engine: Engine) -> int:
    """Pages for the prompts of three requests and little more."""
    return 2 + sum(-(-len(p) // 16) for p in engine.prompts[:3])


def test_preemption_changes_nothing(engine):
    for requests in (greedy_requests(engine, max_tokens=24), seeded_requests(engine, max_tokens=24)):
        free = run(engine, requests[:3])
        short = run(engine, requests[:3], pages=tight(engine), prefix_caching=False)
        assert free.stats.preemptions == 0 < short.stats.preemptions
        assert listed(short) == listed(free)


def test_seeded_tokens_do_not_depend_on_company_chunks_or_depth(engine):
    together = listed(run(engine, seeded_requests(engine)))
    alone = [listed(run(engine, [request]))[0] for request in seeded_requests(engine)]
    chunked = listed(run(engine, seeded_requests(engine), budget=16, depth=1, prefix_caching=False))
    assert together == alone == chunked
    assert together != engine.greedy
    other = [msgspec.structs.replace(r, seed=r.seed + 1) for r in seeded_requests(engine)]
    assert listed(run(engine, other)) != together


def test_four_samples_of_one_prompt_fork_it(engine):
    prompt = engine.prompts[3][:37]  # ends within a page
    sampling = Sampling(**SEEDED)

    def child(i: int, **more: Any) -> EngineRequest:
        return EngineRequest(id=str(i), tokens=prompt, seed=50 + i, sampling=sampling, **more)

    for caching in (True, False):
        family = [child(0), *(child(i, parent=("0", i)) for i in (1, 2, 3))]
        forked = run(engine, family, prefix_caching=caching)
        assert (forked.stats.forks, forked.stats.copies) == (3, 3)
        singles = [listed(run(engine, [child(i)], prefix_caching=False))[0] for i in range(4)]
        assert listed(forked) == singles
    assert len(set(map(tuple, singles))) == 4


def test_penalties_and_ends_survive_preemption(engine):
    plain = dict(max_tokens=24)
    sampling = dict(
        repetition_penalty=1.2, frequency_penalty=0.5, logit_bias=((2, 3.0),), min_tokens=4, eos=(2,)
    )
    free = run(engine, seeded_requests(engine, **plain, **sampling)[:3])
    short = run(engine, seeded_requests(engine, **plain, **sampling)[:3], pages=tight(engine))
    assert short.stats.preemptions > 0
    assert (listed(short), short.finish) == (listed(free), free.finish)
    assert listed(free) != listed(run(engine, seeded_requests(engine, **plain)[:3]))
    assert all(2 not in tokens[:3] for tokens in listed(free))


def test_logprobs_equal_those_of_the_whole_sequence(engine):
    sampling = dict(logprobs=2, prompt_logprobs=1)
    outcome = run(engine, greedy_requests(engine, **sampling)[:1], budget=7)
    prompt, output = list(engine.prompts[0]), engine.greedy[0]
    device = engine.runner._started()
    raw = torch.from_numpy(whole_logits(device._model, device._backend, prompt + output)).log_softmax(-1)
    entries = [*outcome.prompt_logprobs["0"], *outcome.logprobs["0"]]
    tokens = (prompt + output)[1:]
    assert [entry.token for entry in entries] == tokens
    for scores, entry in zip(raw, entries, strict=False):
        assert entry.logprob == pytest.approx(float(scores[entry.token]), abs=1e-3)
        assert entry.rank == 1 + int((scores > scores[entry.token]).sum())
        assert entry.top_logprobs[0] == pytest.approx(float(scores.max()), abs=1e-3)
    assert [len(e.top_ids) for e in entries] == [1] * (len(prompt) - 1) + [2] * COUNT


def test_zero_tokens_score_the_prompt_and_end(engine):
    outcome = run(engine, greedy_requests(engine, max_tokens=0, prompt_logprobs=0)[:2])
    assert set(outcome.finish.values()) == {Finish.LENGTH}
    for i in range(2):
        assert outcome.tokens[str(i)] == []
        assert [e.token for e in outcome.prompt_logprobs[str(i)]] == list(engine.prompts[i][1:])
