"""The default model with a KV cache in int8: its text is the same however the engine runs, and close to
what the exact cache says."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from octavo import LLM, SamplingParams
from octavo.core.events import CoreStats
from octavo.core.facts import ModelFiles

ROOT = Path(__file__).resolve().parents[3]
SHARED = "Answer in one sentence. You are a teacher of geography who is patient, exact and fond of rivers. "
PROMPTS = [
    SHARED * 3 + "What is the capital of France?",
    SHARED * 3 + "Which river runs through Vienna?",
    "Once upon a time",
    SHARED + "Why is the sky blue?",
    "A",
]


def engine(**settings: Any) -> LLM:
    given = {"max_model_len": 512, "max_num_seqs": 16, "kv_cache_memory_bytes": "64MiB", **settings}
    return LLM(kv_cache_dtype="int8", **given)


def asked() -> list[tuple[str, SamplingParams]]:
    """Every prompt greedily, and two answers that begin from the same blocks and then part."""
    greedy = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    drawn = SamplingParams(temperature=1, seed=5, n=2, max_tokens=40, ignore_eos=True)
    return [*((prompt, greedy) for prompt in PROMPTS), (PROMPTS[0], drawn)]


def said(llm: LLM, requests: list[tuple[str, SamplingParams]]) -> list[list[int]]:
    outputs = llm.generate([r[0] for r in requests], [r[1] for r in requests], use_tqdm=False)
    return [list(one.token_ids) for output in outputs for one in output.outputs]


@pytest.fixture(scope="module")
def alone(default_model: ModelFiles) -> list[list[int]]:
    """One prompt at a time, in one piece, nothing reused."""
    with engine(enable_prefix_caching=False, async_scheduling=False) as llm:
        return [tokens for request in asked() for tokens in said(llm, [request])]


WAYS: dict[str, tuple[dict[str, Any], Callable[[CoreStats], bool]]] = {
    "a batch": ({}, lambda s: s.forks > 0 and s.copies > 0),
    "no prefix cache": ({"enable_prefix_caching": False}, lambda s: s.prefix_hits == 0),
    "pieces of 7": ({"max_num_batched_tokens": 7}, lambda s: s.steps > 50),
    "pieces of 16": ({"max_num_batched_tokens": 16}, lambda s: s.steps > 40),
    "few blocks": (
        {"num_gpu_blocks_override": 32, "kv_cache_memory_bytes": None, "enable_prefix_caching": False},
        lambda s: s.preemptions > 0,
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_text_does_not_depend_on_how_the_engine_runs(alone: list[list[int]], name: str) -> None:
    settings, shown = WAYS[name]
    with engine(**settings) as llm:
        assert said(llm, asked()) == alone
        assert shown(llm.stats()), llm.stats()


def test_a_second_time_comes_from_the_prefix_cache(alone: list[list[int]]) -> None:
    with engine() as llm:
        assert said(llm, asked()) == alone
        before = llm.stats().prefix_hits
        assert said(llm, asked()) == alone
        assert llm.stats().prefix_hits >= before + 100


def test_log_probabilities_stay_close_to_the_exact_cache(default_model: ModelFiles) -> None:
    """Measured on this text: perplexity 0.2 % off, 0.04 a token on average."""
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    found = []
    for dtype in ("float32", "int8"):
        with LLM(max_model_len=2048, kv_cache_memory_bytes="256MiB", kv_cache_dtype=dtype) as llm:
            ids = llm.get_tokenizer().encode((ROOT / "LICENSE").read_text())[:1500]
            (output,) = llm.generate({"prompt_token_ids": ids}, params, use_tqdm=False)
        assert output.prompt_logprobs is not None
        entries = zip(ids[1:], output.prompt_logprobs[1:], strict=True)
        found.append([entry[token].logprob for token, entry in entries if entry is not None])
    exact, narrow = found
    assert exact != narrow
    off = [abs(a - b) for a, b in zip(exact, narrow, strict=True)]
    assert sum(off) / len(off) < 0.08
    assert abs(math.exp((sum(exact) - sum(narrow)) / len(exact)) - 1) < 0.01


def test_a_block_takes_half_the_memory(default_model: ModelFiles) -> None:
    """bfloat16 takes 2 * 64 bytes a position and head, int8 64 and a scale of 4."""
    blocks = []
    for dtype in ("bfloat16", "int8"):
        with LLM(max_model_len=512, kv_cache_memory_bytes="32MiB", kv_cache_dtype=dtype) as llm:
            ready = llm.ready
            blocks.append(ready.cache.pages)
            assert ready.cache.page_bytes * ready.cache.pages <= 32 << 20
    assert blocks[1] == pytest.approx(blocks[0] * 128 / 68, rel=0.01)
