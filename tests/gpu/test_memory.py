"""Memory on the GPU: what cannot fit says what would, and running out in the middle changes no token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from octavo import LLM, SamplingParams
from octavo.core.errors import UserError
from octavo.runner.cuda.device import CudaDevice
from tests.gpu.models import greedy, prompts, save


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    save("llama", folder)
    return folder


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"kv_cache_memory_bytes": 1 << 50}, "kv_cache_memory_bytes"),
        ({"num_gpu_blocks_override": 1 << 40}, "num_gpu_blocks_override"),
        ({"gpu_memory_utilization": 0.01}, "gpu_memory_utilization"),
        ({"max_num_batched_tokens": 1 << 27, "max_num_seqs": 4096}, "max_num_batched_tokens"),
        ({"num_gpu_blocks_override": 4, "max_model_len": 512}, "max_model_len"),
    ],
)
def test_absurd_settings_name_values_that_fit(folder: Path, settings: dict, field: str) -> None:
    with pytest.raises(UserError) as refused:
        LLM(model=str(folder), skip_tokenizer_init=True, **settings)
    assert refused.value.field == field and "--" in refused.value.hint
    with LLM(model=str(folder), skip_tokenizer_init=True, kv_cache_memory_bytes=64 << 20) as llm:
        assert llm.ready.cache.pages > 2, "the device is as good as before"


def test_a_step_without_memory_is_computed_in_pieces(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = save("llama", tmp_path)
    asked = prompts(10)
    wanted = [greedy(theirs, p, 8) for p in asked]
    compute, refused = CudaDevice._compute, []

    def short_of_memory(self, bounds, *rest):
        if bounds.tokens > 40:
            refused.append(bounds)
            raise torch.OutOfMemoryError("nothing left")
        return compute(self, bounds, *rest)

    with LLM(
        model=str(folder), skip_tokenizer_init=True, dtype="float32", kv_cache_memory_bytes=64 << 20
    ) as llm:
        monkeypatch.setattr(CudaDevice, "_compute", short_of_memory)
        params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True, detokenize=False)
        outputs = llm.generate([{"prompt_token_ids": p} for p in asked], params, use_tqdm=False)
    assert [list(output.outputs[0].token_ids) for output in outputs] == wanted
    assert refused
