"""A GPU's start where memory is short: the budget shrinks, the cache gets fewer pages, or somebody is told
what would fit. Runs without a GPU, too; what the device says of itself is made up."""

from __future__ import annotations

import dataclasses
import json
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from octavo.checkpoint.open import open_checkpoint
from octavo.config.engine import EngineConfig
from octavo.core.errors import UserError
from octavo.core.facts import ModelFiles, Platform
from octavo.nn.protocols import Layered
from octavo.runner import start as starting
from octavo.runner.cache import Caches
from octavo.runner.cuda import start as cuda
from octavo.runner.cuda.device import CudaDevice
from octavo.runner.cuda.shortage import needing
from octavo.runner.drawing import Drawing
from tests.cpu.runner.tiny import CONFIG, checkpoint_tensors, tiny_model

GIB = 1 << 30
WHERE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def gpu(feature: str = "sm75") -> Platform:
    return Platform(
        kind="cuda", name="A GPU", cores=40, memory_total=16 * GIB, memory_free=15 * GIB, features=(feature,)
    )


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_file(checkpoint_tensors(), tmp_path / "model.safetensors")
    return ModelFiles(
        name="tiny", root=str(tmp_path), weights=(str(tmp_path / "model.safetensors"),),
        format="safetensors", config=str(tmp_path / "config.json"), tokenizer="",
    )  # fmt: skip


def drawn(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch, feature: str = "sm75", **settings: Any
) -> Drawing:
    """Of the tiny model; on a GPU this old attention is the oracle's, which runs anywhere."""
    monkeypatch.setattr(starting, "detect", lambda: gpu(feature))
    given = {"dtype": "float32", "block_size": 4, "max_num_seqs": 4, "kv_cache_memory_bytes": 1 << 20}
    config = EngineConfig.from_flat({**given, **settings})
    checkpoint = open_checkpoint(files, "auto")
    try:
        return starting.draw_up(config, files, checkpoint)
    finally:
        checkpoint.close()


def model(plan: Drawing) -> Layered:
    return tiny_model(backend=plan.backend, device=WHERE)[0]  # type: ignore[return-value]


def tiny(plan: Drawing) -> Caches:
    return Caches(plan.layout, 2, torch.float32, WHERE)


def test_the_budget_shrinks_until_the_largest_step_fits(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = drawn(files, monkeypatch)
    alive: list[weakref.ref[CudaDevice]] = []

    class Watched(CudaDevice):
        def __init__(self, *args: Any, **named: Any) -> None:
            assert all(ref() is None for ref in alive), "the device before it still holds its memory"
            super().__init__(*args, **named)
            alive.append(weakref.ref(self))

    def peak(device: CudaDevice, plan: Drawing) -> int:
        if plan.resolved.budget > 1024:
            raise torch.OutOfMemoryError("nothing left")
        return 5

    monkeypatch.setattr(cuda, "CudaDevice", Watched)
    monkeypatch.setattr(cuda, "_compile", lambda device, plan: None)
    monkeypatch.setattr(cuda, "_peak_of", peak)
    device, smaller, found = cuda._measured(plan, model(plan), tiny(plan), WHERE)
    assert (smaller.resolved.budget, found, len(alive)) == (1024, 5, 4) and device is alive[-1]()
    made = [d for d in smaller.decisions if d.field == "max_num_batched_tokens"][-1]
    assert made.value == "1024" and "2048 tokens did not fit" in made.why


def test_a_budget_that_was_asked_for_is_refused_with_one_that_may_fit(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = drawn(files, monkeypatch, max_num_batched_tokens=2000)
    monkeypatch.setattr(cuda, "_compile", lambda device, plan: None)
    monkeypatch.setattr(cuda, "_peak_of", out_of_memory)
    with pytest.raises(UserError) as refused:
        cuda._measured(plan, model(plan), tiny(plan), WHERE)
    assert refused.value.field == "max_num_batched_tokens"
    assert "--max-num-batched-tokens 1000" in refused.value.hint


def small(plan: Drawing) -> CudaDevice:
    return CudaDevice(
        model(plan),
        plan.backend,
        plan.layout,
        tiny(plan),
        rows=4,
        length=64,
        budget=16,
        device=WHERE,
        eager=True,
    )


def out_of_memory(*args: Any, **named: Any) -> Any:
    raise torch.OutOfMemoryError("nothing left")


def test_measuring_mends_nothing(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step in pieces would hide that the whole one does not fit."""
    plan = drawn(files, monkeypatch)
    device = small(plan)
    monkeypatch.setattr(device, "_compute", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError), device.eagerly():
        cuda._largest_step(device, plan, cuda._RARE[0], rows=1, tokens=4)
    device.close()


def test_the_table_leaves_out_what_was_there_before(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors of this process among it, such as an earlier engine's scratch memory."""
    plan = drawn(files, monkeypatch)
    free, peak = plan.platform.memory_free, 5 << 20
    plan = plan._replace(platform=msgspec.structs.replace(plan.platform, memory_held=GIB))
    rows = cuda._measured_rows(plan, peak, free - (100 << 20), GIB + (70 << 20))
    found = {row.name: row.nbytes for row in rows}
    assert found["weights"] + found["slots"] == 70 << 20 and found["context"] == 30 << 20
    assert found["activations"] == peak


@pytest.mark.parametrize(("times", "fits"), [(1, True), (10**6, False)])
def test_a_cache_that_does_not_fit_gets_fewer_pages(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch, times: int, fits: bool
) -> None:
    plan = drawn(files, monkeypatch)
    refused: list[int] = []

    def short(layout: Any, pages: int, *rest: Any) -> Caches:
        if len(refused) < times:
            refused.append(pages)
            raise torch.OutOfMemoryError("nothing left")
        return Caches(layout, pages, *rest)

    monkeypatch.setattr(cuda, "Caches", short)
    if fits:
        caches, memory = cuda._allocate(plan, plan.memory, torch.float32, WHERE)
        assert memory.pages == plan.memory.pages - plan.memory.pages // 20
        assert all(len(tensor) == memory.pages for tensor in caches.tensors.values())
        return
    with pytest.raises(UserError) as told:
        cuda._allocate(plan, plan.memory, torch.float32, WHERE)
    assert told.value.field == "gpu_memory_utilization" and "--gpu-memory-utilization" in told.value.hint
    assert min(refused) * 4 >= plan.memory.max_model_len


def test_weights_that_do_not_fit_name_bytes_and_remedy(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = drawn(files, monkeypatch).costs.weights
    monkeypatch.setattr(starting, "_load", out_of_memory)
    with pytest.raises(UserError) as refused:
        starting.start(EngineConfig.from_flat({"dtype": "float32"}), files, lambda stage, share: None)
    assert refused.value.field == "model" and "--quantization fp8" in refused.value.hint
    assert f"({weights} bytes)" in refused.value.message and f"({15 * GIB} bytes)" in refused.value.message


def test_a_first_step_that_finds_no_memory_is_a_refusal(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = drawn(files, monkeypatch)
    device = small(plan)
    monkeypatch.setattr(device, "_compute", out_of_memory)
    with pytest.raises(UserError) as refused, needing("the first step", 7, plan.platform):
        starting._warm_up(device, plan)
    assert refused.value.field == "gpu_memory_utilization" and "(7 bytes)" in refused.value.message


def test_a_backend_that_waits_for_the_device_goes_without_graphs(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = drawn(files, monkeypatch)
    assert plan.backend.name == "torch_ref"
    eager, made = cuda._graphs(plan)
    assert eager.resolved.eager and made is not None and "lengths on the host" in made.why
    captured = plan._replace(backend=SimpleNamespace(captures=lambda bounds: True))  # type: ignore[arg-type]
    assert cuda._graphs(captured) == (captured, None)
    asked = captured._replace(resolved=dataclasses.replace(plan.resolved, eager=True))
    assert cuda._graphs(asked)[1].why == "enforce_eager"


@pytest.mark.parametrize(
    ("feature", "settings", "field", "remedy"),
    [
        ("sm75", {"dtype": "bfloat16"}, "dtype", "--dtype float16"),
        ("sm75", {"kv_cache_dtype": "bfloat16"}, "kv_cache_dtype", "float16"),
        ("sm75", {"kv_cache_dtype": "fp8"}, "kv_cache_dtype", "float16"),
        ("sm80", {"kv_cache_dtype": "fp8"}, "kv_cache_dtype", "use bfloat16"),
        ("sm86", {"kv_cache_dtype": "fp8_e4m3"}, "kv_cache_dtype", "use bfloat16"),
    ],
)
def test_formats_the_gpu_has_no_arithmetic_for(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch, feature: str, settings: dict, field: str, remedy: str
) -> None:
    with pytest.raises(UserError) as refused:
        drawn(files, monkeypatch, feature, **settings)
    assert refused.value.field == field and remedy in refused.value.hint
    assert "compute capability 8." in refused.value.message


@pytest.mark.parametrize(
    ("feature", "dtype"), [("sm75", "float16"), ("sm80", "bfloat16"), ("sm90", "bfloat16")]
)
def test_the_dtype_follows_the_capability(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch, feature: str, dtype: str
) -> None:
    plan = drawn(files, monkeypatch, feature, dtype="auto")
    assert plan.resolved.dtype == plan.resolved.kv_dtype == dtype
    assert next(d for d in plan.decisions if d.field == "dtype").value == dtype
    if feature == "sm90":
        assert drawn(files, monkeypatch, feature, kv_cache_dtype="fp8").resolved.kv_dtype == "fp8_e4m3"
