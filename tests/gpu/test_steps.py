"""What a step may not do: wait for the device; and what it tells of its time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from octavo import LLM, SamplingParams
from octavo.attention.torch_ref import TorchRef
from octavo.runner.cuda.device import CudaDevice
from octavo.runner.cuda.rows import common_pages
from tests.gpu.models import greedy, prompts, save

PLAIN = {"max_tokens": 12, "ignore_eos": True, "detokenize": False}
WISHES: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.8, "seed": 3, "n": 2},
    {"temperature": 0.8, "seed": 4, "top_k": 20, "top_p": 0.9},
    {"temperature": 0.8, "seed": 5, "min_p": 0.05, "logprobs": 4},
    {"temperature": 0.0, "repetition_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": 0.2},
    {"temperature": 0.0, "prompt_logprobs": 2},
    {"temperature": 0.0, "allowed_token_ids": list(range(40, 90)), "logit_bias": {50: 2.0}},
    {"temperature": 0.0, "min_tokens": 4, "stop_token_ids": [7, 8, 9]},
)


def strict(call: Callable[..., Any]) -> Callable[..., Any]:
    """An error where torch would wait for the device in this call."""

    def watched(*args: Any) -> Any:
        watch("error")
        try:
            return call(*args)
        finally:
            watch("default")

    return watched


def watch(mode: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls it a prototype that does not see everything
        torch.cuda.set_sync_debug_mode(mode)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    save("llama", folder)
    return folder


def llm(folder: Path, **settings: Any) -> LLM:
    given = {"max_num_seqs": 32, "max_model_len": 512, "kv_cache_memory_bytes": 64 << 20, **settings}
    return LLM(model=str(folder), skip_tokenizer_init=True, **given)


def test_the_watch_sees_who_waits() -> None:
    with pytest.raises(RuntimeError, match="synchroniz"):
        strict(lambda: torch.ones(1, device="cuda").item())()


@pytest.mark.parametrize("eager", [False, True])
def test_no_step_waits_for_the_device(folder: Path, monkeypatch: pytest.MonkeyPatch, eager: bool) -> None:
    """Prompts in chunks, decoding, both at once, forks with copies, and whatever a request may ask for."""
    inputs = [{"prompt_token_ids": p} for p in prompts(24)]
    params = [SamplingParams(**PLAIN, **WISHES[i % len(WISHES)]) for i in range(24)]
    with llm(folder, enforce_eager=eager, max_num_batched_tokens=200, max_logprobs=5) as engine:
        plain = engine.generate(inputs, params, use_tqdm=False)
        monkeypatch.setattr(CudaDevice, "forward", strict(CudaDevice.forward))
        monkeypatch.setattr(CudaDevice, "sample", strict(CudaDevice.sample))
        for _ in range(2):
            watched = engine.generate(inputs, params, use_tqdm=False)
        assert engine.stats().copies > 0 and engine.stats().overlapped > 0
    for one, other, wish in zip(plain, watched, WISHES * 3, strict=True):
        if "stop_token_ids" not in wish:
            assert len(one.outputs[0].token_ids) == len(other.outputs[0].token_ids) == 12


def test_steps_tell_where_their_time_goes_and_a_pause_is_not_idle(folder: Path) -> None:
    with llm(folder) as engine:
        for _ in range(3):  # everything is compiled and captured
            ask(engine, 4)
        before = engine.stats()
        assert before.device_s > 0 and before.host_s > 0 and before.forward_s > 0
        pause = busy_elsewhere()
        ask(engine, 4)
        after = engine.stats()
        assert after.device_s > before.device_s
        assert after.idle_s - before.idle_s < 0.5 * pause


def busy_elsewhere() -> float:
    """Keeps the device from steps for a while; seconds."""
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    began.record()
    torch.cuda._sleep(1 << 30)
    ended.record()
    ended.synchronize()
    return began.elapsed_time(ended) / 1e3


def ask(engine: LLM, count: int) -> list[list[int]]:
    params = SamplingParams(temperature=0.0, **PLAIN)
    outputs = engine.generate([{"prompt_token_ids": p} for p in prompts(count)], params, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


@pytest.mark.parametrize("eager", [False, True])
def test_a_shared_prefix_changes_no_token(folder: Path, monkeypatch: pytest.MonkeyPatch, eager: bool) -> None:
    monkeypatch.setattr("octavo.runner.cuda.device._SHARED", 32)
    shared: list[int] = []
    counted = common_pages

    def counting(*args: Any) -> int:
        shared.append(counted(*args))
        return shared[-1]

    monkeypatch.setattr("octavo.runner.cuda.device.common_pages", counting)
    theirs = save("llama", folder)
    prefix = prompts(8)[7][:80]
    asked = [prefix + p[:40] for p in prompts(8)]
    wanted = [greedy(theirs, p, 12) for p in asked]
    with llm(folder, dtype="float32", enforce_eager=eager) as engine:
        params = SamplingParams(temperature=0.0, **PLAIN)
        given = [{"prompt_token_ids": p} for p in asked]
        engine.generate(given[:1], params, use_tqdm=False)
        for _ in range(3):  # launched, captured, replayed
            outputs = engine.generate(given, params, use_tqdm=False)
            assert [list(output.outputs[0].token_ids) for output in outputs] == wanted
    assert max(shared) == 80 // 16


def test_attention_that_reads_on_the_host_goes_without_graphs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("octavo.attention.choose.BACKENDS", {"torch_ref": TorchRef})
    theirs = save("llama", folder)
    with llm(folder, dtype="float32") as engine:
        assert engine.ready.attention == "torch_ref"
        made = {d.field: d for d in engine.ready.decisions}["graphs"]
        assert made.value == "none" and "host" in made.why
        assert ask(engine, 3) == [greedy(theirs, p, 12) for p in prompts(3)]
