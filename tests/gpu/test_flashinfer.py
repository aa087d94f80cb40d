"""The backend "flashinfer" with the package itself: its kernels against the definition, and the engine's
bound of bfloat16, prompts cut into chunks."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from octavo.attention.flashinfer import FlashInferAttention
from octavo.ops.triton import attention_tune
from tests.gpu import test_engine
from tests.kernels.attention_case import Case
from tests.kernels.attention_steps import CHUNKS, MIXED, attend, host_of

pytestmark = [
    pytest.mark.skipif(find_spec("flashinfer") is None, reason="flashinfer-python is not installed"),
    pytest.mark.filterwarnings("default"),  # the package's own
]

LONG = [(1, 700), (0, 0), (1, 33), (130, 130), (77, 1500), (300, 431), (2, 2), (1000, 3000)]
CHUNKED = {"attention_backend": "flashinfer", "max_num_batched_tokens": 64}


@pytest.mark.parametrize("rows", [MIXED, CHUNKS, LONG], ids=["mixed", "chunks", "long"])
@pytest.mark.parametrize("window", [0, 40])
@pytest.mark.parametrize(("heads", "kv_heads", "d"), [(8, 2, 64), (8, 8, 64), (32, 8, 128), (7, 1, 128)])
def test_rows_equal_the_definition(rows, window, heads, kv_heads, d):
    for page in (16, 64):
        backend = FlashInferAttention(attention_tune.FlashInferFrom())
        backend.reserve(len(rows), torch.device("cuda"))
        case = Case(rows, heads, kv_heads, d, page, torch.bfloat16, window=window, device="cuda", pad=0)
        case.build()
        n = sum(count for count, _ in rows)
        got = attend(backend, case, host_of(case))
        assert case.check(got[:n], case.expected()[:n]) <= 1
        assert backend.plans == 1


@pytest.mark.parametrize("name", ["llama", "llama-one-kv-head", "mistral-window", "qwen3"])
def test_bfloat16_stays_within_the_bound(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[int] = []
    plan, llm = FlashInferAttention._planned, test_engine.Case.llm

    def noted(self, *given):
        made = plan(self, *given)
        planned.append(made.tokens)
        return made

    monkeypatch.setattr(FlashInferAttention, "_planned", noted)
    monkeypatch.setattr(attention_tune, "FLASHINFER", {})  # it takes steps of any size
    monkeypatch.setattr(test_engine.Case, "llm", lambda case, **given: llm(case, **given, **CHUNKED))
    test_engine.test_bfloat16_stays_within_the_bound(name, tmp_path)
    assert sum(planned) > 500, "the prompts went through FlashInfer"
