"""The default model, a file with real weights: float32 tokens and bfloat16 logits against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from octavo import LLM, SamplingParams, StructuredOutputsParams
from octavo.runner.cuda.device import CudaDevice
from tests.gpu.closeness import Closeness
from tests.gpu.models import logits_of
from tests.gpu.test_steps import strict

COUNT = 24  # tokens
# of a bfloat16 log-probability, over the largest logit of the position; transformers is 0.054 off in bfloat16
BOUND = 0.08
TEXTS = [
    "What is the capital of France?",
    "Write a short poem about the sea and a lighthouse.",
    "def fibonacci(n):",
    "List three uses of copper, then say where it is found. " * 20,
]


@pytest.fixture(scope="module")
def theirs(default_model: Any) -> Any:
    from transformers import AutoModelForCausalLM

    gguf = Path(default_model.weights[0])
    return AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()


def answers(dtype: str, **more: Any) -> list[Any]:
    asked = {"temperature": 0.0, "max_tokens": COUNT, "ignore_eos": True, **more}
    settings = {"max_model_len": 1024, "kv_cache_memory_bytes": 256 << 20, "max_logprobs": -1}
    with LLM(dtype=dtype, **settings) as llm:
        return llm.generate(TEXTS, SamplingParams(**asked), use_tqdm=False)


def test_float32_gives_the_tokens_of_transformers(theirs: Any) -> None:
    for output in answers("float32"):
        prompt, tokens = output.prompt_token_ids, list(output.outputs[0].token_ids)
        assert logits_of(theirs, prompt + tokens)[len(prompt) - 1 : -1].argmax(-1).tolist() == tokens


def test_bfloat16_stays_within_the_bound(theirs: Any) -> None:
    close = Closeness(BOUND)
    for output in answers("bfloat16", logprobs=-1, detokenize=False):
        prompt, answer = output.prompt_token_ids, output.outputs[0]
        tokens = list(answer.token_ids)
        close.answer(tokens, answer.logprobs, logits_of(theirs, prompt + tokens)[len(prompt) - 1 : -1])
    close.check("SmolLM2")


def test_masked_steps_do_not_wait_for_the_device(default_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grammar masks come late, after F; the rows beside them are free."""
    form = StructuredOutputsParams(choice=["positive", "negative"])
    params = [
        SamplingParams(temperature=0.0, max_tokens=8, structured_outputs=form if i % 2 else None)
        for i in range(len(TEXTS))
    ]
    with LLM(max_model_len=1024, kv_cache_memory_bytes=256 << 20) as llm:
        plain = llm.generate(TEXTS, params, use_tqdm=False)
        monkeypatch.setattr(CudaDevice, "forward", strict(CudaDevice.forward))
        monkeypatch.setattr(CudaDevice, "sample", strict(CudaDevice.sample))
        watched = llm.generate(TEXTS, params, use_tqdm=False)
        assert llm.stats().masked > 0
    for one, other in zip(plain, watched, strict=True):
        assert one.outputs[0].text == other.outputs[0].text
    assert all(watched[i].outputs[0].text in ("positive", "negative") for i in (1, 3))
