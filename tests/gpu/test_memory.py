"""Memory on the GPU: what cannot fit says what would, and running out in the middle changes no token."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from octavo import LLM, SamplingParams
from octavo.core.errors import UserError
from octavo.runner.cache import Caches
from octavo.runner.cuda import start as starting
from octavo.runner.cuda.device import CudaDevice
from octavo.runner.cuda.logprobs import Logprobs
from tests.gpu.models import greedy, prompts, save

FRAGMENTS = 64 << 20  # bytes that the device's allocator may round, or give back


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


GREEDY = {"temperature": 0.0, "max_tokens": 8, "ignore_eos": True, "detokenize": False}


def short_of_memory(call: Callable[..., Any], when: Callable[..., bool]) -> Callable[..., Any]:
    def refusing(*args: Any) -> Any:
        if when(*args):
            raise torch.OutOfMemoryError("nothing left")
        return call(*args)

    return refusing


@pytest.mark.parametrize(
    ("owner", "name", "when", "asked"),
    [
        # the model never finds memory for the step that has the fourth of them in it
        (
            CudaDevice,
            "_compute",
            lambda d, b, first=0, *_: d._plan_id == 0 and first <= 3 < first + b.rows,
            {},
        ),
        (CudaDevice, "_choose", lambda d, rows, variant, masks: variant == "full", {"presence_penalty": 0.1}),
        (Logprobs, "_raw", lambda *_: True, {"logprobs": 2}),
        (Logprobs, "_send_prompt", lambda *_: True, {"prompt_logprobs": 2}),
    ],
    ids=["model", "penalties", "logprobs", "prompt_logprobs"],
)
def test_who_finds_no_memory_ends_and_nobody_else(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    when: Any,
    asked: Any,
) -> None:
    theirs = save("llama", tmp_path)
    given = prompts(10)
    wanted = [greedy(theirs, p, 8) for p in given]
    with LLM(
        model=str(folder), skip_tokenizer_init=True, dtype="float32", kv_cache_memory_bytes=64 << 20,
        enforce_eager=name == "_compute", enable_prefix_caching=False,
    ) as llm:  # fmt: skip
        params = [SamplingParams(**GREEDY, **(asked if i == 3 else {})) for i in range(10)]
        inputs = [{"prompt_token_ids": p} for p in given]
        with monkeypatch.context() as m:
            m.setattr(owner, name, short_of_memory(getattr(owner, name), when))
            outputs = llm.generate(inputs, params, use_tqdm=False)
        assert [output.outputs[0].finish_reason for output in outputs] == ["length"] * 3 + ["error"] + [
            "length"
        ] * 6
        assert [list(o.outputs[0].token_ids) for i, o in enumerate(outputs) if i != 3] == wanted[:3] + wanted[
            4:
        ]
        again = llm.generate(inputs, params, use_tqdm=False)
        assert [output.outputs[0].finish_reason for output in again] == ["length"] * 10
        assert list(again[4].outputs[0].token_ids) == wanted[4]


def test_a_largest_step_without_memory_shrinks_the_budget(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak = starting._peak_of

    def short(device: CudaDevice, plan: Any) -> int:
        if plan.resolved.budget > 1024:
            raise torch.OutOfMemoryError("nothing left")
        return peak(device, plan)

    monkeypatch.setattr(starting, "_peak_of", short)
    with LLM(model=str(folder), skip_tokenizer_init=True, kv_cache_memory_bytes=64 << 20) as llm:
        made = [d for d in llm.ready.decisions if d.field == "max_num_batched_tokens"]
        assert made[-1].value == str(llm.ready.budget) == "1024"
        assert len(ask(llm, prompts(3))) == 3


def test_a_cache_without_memory_gets_fewer_pages(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def short(layout: Any, pages: int, *rest: Any) -> Caches:
        asked.append(pages)
        if len(asked) == 2:  # the first is the tiny one
            raise torch.OutOfMemoryError("nothing left")
        return Caches(layout, pages, *rest)

    monkeypatch.setattr(starting, "Caches", short)
    with LLM(model=str(folder), skip_tokenizer_init=True, kv_cache_memory_bytes=64 << 20) as llm:
        assert llm.ready.cache.pages == asked[2] < asked[1]
        assert len(ask(llm, prompts(3))) == 3


def test_the_table_adds_up_to_what_the_device_says(folder: Path) -> None:
    gc.collect()
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    with LLM(model=str(folder), skip_tokenizer_init=True, kv_cache_memory_bytes=8 << 30) as llm:
        left, _ = torch.cuda.mem_get_info()
        rows = {row.name: row.nbytes for row in llm.ready.memory}
    total = rows.pop("total")
    assert sum(rows.values()) == total
    # what is set aside for steps and libraries need not be taken yet
    spare = rows["activations"] + rows["graphs"] + rows["headroom"]
    assert total - spare - FRAGMENTS < free - left < total, rows


def test_a_start_leaves_nothing_behind(folder: Path) -> None:
    """However many engines a process has had. The first one's scratch memory stays for those that follow."""
    held: list[int] = []
    for _ in range(3):
        with LLM(model=str(folder), skip_tokenizer_init=True, kv_cache_memory_bytes=64 << 20) as llm:
            assert len(ask(llm, prompts(3))) == 3
        gc.collect()
        torch.cuda.empty_cache()
        held.append(torch.cuda.memory_allocated())
    assert held[2] - held[0] < 16 << 20, held


def ask(llm: LLM, given: list[list[int]]) -> list[list[int]]:
    outputs = llm.generate([{"prompt_token_ids": p} for p in given], SamplingParams(**GREEDY), use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]
