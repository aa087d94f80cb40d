"""quantization="fp8" and kv_cache_dtype="fp8" end to end, against references rounded in plain torch.

In float32 nothing but what is stored is rounded: the references' tokens must come. In bfloat16 several
rows of activations are rounded to 8 bits, too. What that costs is measured here in plain torch and is
0.04 to 0.093 of the largest logit on these models; a cache in 8 bits costs 0.025 to 0.064.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.gpu.closeness import Closeness, rounded_activations, rounded_cache, with_rounded_weights
from tests.gpu.models import CONFIGS, greedy, logits_of
from tests.gpu.test_engine import COUNT, Case, generate

WEIGHTS = 0.14  # of a log-probability, over the largest logit of the position; bfloat16 itself is 0.03 of it
CACHE = 0.10
# float32 keys within a few last bits of the middle between two 8-bit numbers are rounded to the other one;
# plain torch with noise of 3e-6 is up to 0.007 off
FLIPS = 0.02
EAGER = ({"enforce_eager": True}, {})


@pytest.fixture(params=list(CONFIGS))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return Case(request.param, tmp_path, spread=0.03)


def logits_after(model: Any, prompt: list[int], tokens: list[int]) -> Tensor:
    return logits_of(model, prompt + tokens)[len(prompt) - 1 : -1]


def both(case: Case, **settings: Any) -> list[tuple[list[int], Any]]:
    """Answers without and with graphs. In 16 bits they may part where two tokens lie close."""
    return [answer for eager in EAGER for answer in case.scored(dtype="bfloat16", **eager, **settings)]


def test_float32_with_weights_in_eight_bits_gives_the_reference_s_tokens(case: Case) -> None:
    rounded = with_rounded_weights(case.theirs)
    wanted = [greedy(rounded, p, COUNT) for p in case.prompts]
    for eager in EAGER:
        with case.llm(quantization="fp8", **eager) as llm:
            assert generate(llm, case.prompts) == wanted, eager
            assert generate(llm, case.prompts[-1:]) == wanted[-1:], "alone"
    assert wanted != case.wanted, "rounding the weights shows"


def test_bfloat16_with_weights_in_eight_bits_stays_within_the_bound(case: Case) -> None:
    rounded = with_rounded_weights(case.theirs, torch.bfloat16)
    close, cost = Closeness(WEIGHTS), Closeness(WEIGHTS)
    for prompt, answer in both(case, quantization="fp8"):
        tokens = list(answer.token_ids)
        exact = logits_after(rounded, prompt, tokens)
        close.answer(tokens, answer.logprobs, exact)
        with rounded_activations(rounded):
            costly = logits_after(rounded, prompt, tokens)
        for theirs, reference in zip(costly, exact, strict=True):
            cost.position(int(theirs.argmax()), theirs.log_softmax(-1), reference)
    cost.check("plain torch with rounded activations")
    close.check("Octavo")
    assert close.worst < 2 * cost.worst + 0.03


def test_float32_with_a_cache_in_eight_bits_is_the_reference(case: Case) -> None:
    close, tokens_of = Closeness(FLIPS), []
    for eager in EAGER:
        with case.llm(kv_cache_dtype="fp8", **eager) as llm:
            tokens_of.append(generate(llm, case.prompts))
    assert tokens_of[0] == tokens_of[1], "a graph changes nothing"
    for prompt, answer in case.scored(kv_cache_dtype="fp8"):
        tokens = list(answer.token_ids)
        with rounded_cache(case.theirs):
            close.answer(tokens, answer.logprobs, logits_after(case.theirs, prompt, tokens))
    close.check("Octavo")


def test_bfloat16_with_a_cache_in_eight_bits_stays_within_the_bound(case: Case) -> None:
    close, cost = Closeness(CACHE), Closeness(CACHE)
    for prompt, answer in both(case, kv_cache_dtype="fp8"):
        tokens = list(answer.token_ids)
        exact = logits_after(case.theirs, prompt, tokens)
        close.answer(tokens, answer.logprobs, exact)
        with rounded_cache(case.theirs):
            costly = logits_after(case.theirs, prompt, tokens)
        for theirs, reference in zip(costly, exact, strict=True):
            cost.position(int(theirs.argmax()), theirs.log_softmax(-1), reference)
    cost.check("plain torch with rounded keys and values")
    close.check("Octavo")
    assert close.worst < 2 * cost.worst + 0.03
