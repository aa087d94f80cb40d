"""The workloads of the engine's benchmark: what their prompts share."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bench.engine import Bench, run


class LLM:
    """Answers at once; has seen the first token of each prompt before."""

    def __init__(self) -> None:
        self.asked = []

    def generate(self, prompts, sampling, use_tqdm):
        self.asked.append([prompt["prompt_token_ids"] for prompt in prompts])
        return [
            SimpleNamespace(
                outputs=[SimpleNamespace(token_ids=[0] * params["max_tokens"])], num_cached_tokens=1
            )
            for params in sampling
        ]


def bench(name, common=False):
    return Bench(LLM(), dict, 1000, name, common)


def begin(name, common, repeat=1):
    return [prompt[:100] for prompt, _ in bench(name, common).requests(repeat)]


def test_a_repeat_asks_what_none_before_it_asked():
    made = bench("eight")
    found = run(made, 2)
    assert len(found["each"]) == 2 and found["cached_tokens"] == [8, 8]
    prompts = [tuple(prompt) for asked in made.llm.asked for prompt in asked]
    assert len(set(prompts)) == len(prompts) == 24


def test_a_workload_has_its_own_prompts():
    assert not {tuple(prompt) for prompt in begin("batch64", False)} & {
        tuple(prompt) for prompt in begin("batch256", False)
    }


def test_their_lengths_are_the_same_either_way():
    own, common = (bench("spread256", common).requests(1) for common in (False, True))
    assert [(len(ids), n) for ids, n in own] == [(len(ids), n) for ids, n in common]
    assert all(10 <= token < 1000 for ids, _ in own for token in ids)


def test_or_all_begin_with_the_same_ones():
    assert begin("batch256", True)[:64] == begin("batch64", True)


@pytest.mark.parametrize("common", [False, True])
def test_a_shared_prefix_is_one_of_all_repeats(common):
    starts = {tuple(p) for repeat in (0, 1) for p in begin("shared", common, repeat)}
    assert len(starts) == 1
