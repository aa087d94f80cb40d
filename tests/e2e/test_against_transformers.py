"""Token ids of the default model against Hugging Face transformers in float32, and against ourselves in
every configuration that must not change them. Counters prove that each feature ran."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from octavo import LLM, SamplingParams
from tests.e2e.prompts import draw, long_ids

TOKENS = 64
SOME, SHORT = 7, 24  # prompts and tokens where configurations are compared
pytestmark = pytest.mark.timeout(1200)
SEED = 20


@pytest.fixture(scope="module")
def model(default_model):
    """transformers' own reading of the same file, dequantised to float32."""
    from transformers import AutoModelForCausalLM

    gguf = Path(default_model.weights[0])
    return AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)


@pytest.fixture(scope="module")
def prompts(default_model) -> list[list[int]]:
    """20 prompts as token ids; one of them has 2,000."""
    from octavo.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(default_model.tokenizer)
    return [tokenizer.encode(text) for text in draw(19, SEED)] + [long_ids(tokenizer.vocab_size, SEED)]


@pytest.fixture(scope="module")
def reference(model, prompts) -> list[list[int]]:
    """Our greedy tokens, once transformers has confirmed every one of them."""
    with engine() as llm:
        tokens = run(llm, prompts, GREEDY)
        assert llm.stats().overlapped > 0
    for ids, out in zip(prompts, tokens, strict=True):
        assert out == confirmed(model, ids, out)
    return tokens


@torch.inference_mode()
def confirmed(model, ids: list[int], out: list[int]) -> list[int]:
    """transformers' argmax after every prefix of prompt + out: it equals `out` exactly when greedy
    decoding with transformers gives `out` (by induction over the prefixes)."""
    logits = model(torch.tensor([ids + out[:-1]]), logits_to_keep=len(out)).logits[0]
    return logits.argmax(-1).tolist()


def engine(**settings) -> LLM:
    return LLM(dtype="float32", max_model_len=4096, kv_cache_memory_bytes=512 << 20, **settings)


def run(llm: LLM, prompts, params) -> list[list[int]]:
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


GREEDY = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, detokenize=False)
FEW = SamplingParams(temperature=0, max_tokens=SHORT, ignore_eos=True, detokenize=False)


def seeded(count: int) -> list[SamplingParams]:
    return [
        SamplingParams(
            temperature=0.9, top_p=0.95, seed=100 + i, max_tokens=SHORT, ignore_eos=True, detokenize=False
        )
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def some(prompts) -> list[list[int]]:
    """The last few prompts, the long one among them."""
    return prompts[-SOME:]


@pytest.fixture(scope="module")
def drawn(some) -> list[list[int]]:
    """Seeded samples, one prompt at a time, nothing shared, nothing overlapped."""
    with engine(enable_prefix_caching=False, async_scheduling=False) as llm:
        return [run(llm, [ids], [params])[0] for ids, params in zip(some, seeded(SOME), strict=True)]


def test_greedy_tokens_equal_transformers(model, reference, prompts):
    assert [len(out) for out in reference] == [TOKENS] * 20
    # Decoding with transformers' own cache says the same; one prompt suffices, the fixture has them all.
    assert reference[0] == greedy(model, prompts[0], TOKENS)


@torch.inference_mode()
def greedy(model, ids: list[int], count: int) -> list[int]:
    """Argmax decoding with transformers' own cache; an end token does not stop it."""
    answer = model.generate(
        torch.tensor([ids]), max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    return answer[0, len(ids) :].tolist()


# name: settings, what the counters must show
CONFIGURATIONS = {
    "no prefix cache": ({"enable_prefix_caching": False}, lambda s: s.prefix_hits == 0),
    "prefix cache, second time": ({}, lambda s: s.prefix_hits > 1900),
    "budget 16": ({"max_num_batched_tokens": 16}, lambda s: s.steps > 2000 / 16),
    "budget 64": ({"max_num_batched_tokens": 64}, lambda s: s.steps > 2000 / 64),
    "budget 2048": ({"max_num_batched_tokens": 2048}, lambda s: s.overlapped > 0),
    "preemption": (
        {"num_gpu_blocks_override": 150, "max_model_len": 2304, "enable_prefix_caching": False},
        lambda s: s.preemptions > 0,
    ),
    "depth 1": ({"async_scheduling": False}, lambda s: s.overlapped == 0),
    "depth 2": ({"async_scheduling": True}, lambda s: s.overlapped > 0),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configurations_do_not_change_tokens(name, reference, drawn, some):
    settings, shown = CONFIGURATIONS[name]
    settings = {"dtype": "float32", "max_model_len": 4096, "kv_cache_memory_bytes": 512 << 20, **settings}
    if "num_gpu_blocks_override" in settings:
        del settings["kv_cache_memory_bytes"]
    with LLM(**settings) as llm:
        if "second" in name:
            run(llm, some, SamplingParams(max_tokens=1, detokenize=False))
        both = run(llm, some + some, [FEW] * len(some) + seeded(len(some)))
        assert both[: len(some)] == [out[:SHORT] for out in reference[-len(some) :]]
        assert both[len(some) :] == drawn
        assert shown(llm.stats()), llm.stats()
    gc.collect()


def test_alone_and_among_32(reference, drawn, some):
    crowd = [long_ids(40_000, seed, 20 + 9 * seed) for seed in range(31)]
    noise = SamplingParams(temperature=1.2, max_tokens=SHORT, ignore_eos=True, detokenize=False, seed=1)
    with engine(enable_prefix_caching=False) as llm:
        for i in (0, 1):
            alone = run(llm, [some[i]], FEW)
            among = run(llm, [*crowd, some[i]], [noise] * 31 + [FEW])
            assert alone == [among[-1]] == [reference[-SOME:][i][:SHORT]]
        assert run(llm, [*crowd, some[2]], [noise] * 31 + [seeded(SOME)[2]])[-1] == drawn[2]


def test_several_samples_of_one_prompt(prompts):
    """n=4 shares the prompt's blocks and copies the last one; each child is what its seed draws alone."""
    params = SamplingParams(n=4, temperature=0.9, seed=5, max_tokens=24, ignore_eos=True, detokenize=False)
    with engine() as llm:
        (output,) = llm.generate([{"prompt_token_ids": prompts[3]}], params, use_tqdm=False)
        assert llm.stats().copies > 0
        children = [list(child.token_ids) for child in output.outputs]
    assert len({tuple(child) for child in children}) == 4
    with engine(enable_prefix_caching=False) as llm:
        singles = []
        for i in range(4):
            alone = params.clone()
            alone.n, alone.seed = 1, 5 + i
            singles += run(llm, [prompts[3]], [alone])
    assert children == singles
