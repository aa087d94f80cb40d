"""A native model's weights: packed once, then mapped; equal either way. Settings that choose, and refusals."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from octavo.checkpoint.packs import packs
from octavo.config.engine import EngineConfig
from octavo.core.errors import Unsupported, UserError
from octavo.core.facts import Decision, ModelFiles
from octavo.core.messages import Admission, StepPlan, Work, pack_work
from octavo.core.request import Sampling
from octavo.ops.cpu.find import find_library
from octavo.ops.cpu.lib import Engine, Library, PackedWeight
from octavo.platform.cpu import usable_cores
from octavo.runner import native, packing
from octavo.runner.runner import Runner
from tests.cpu.runner.tiny import CONFIG, checkpoint_tensors, tokens_of

WIDE = dict(hidden_size=64, intermediate_size=96, head_dim=16)
SMALL = dict(num_gpu_blocks_override=20, block_size=16, max_num_seqs=4, max_model_len=64)


@pytest.fixture
def files(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFiles:
    """A tiny model in bfloat16, and a cache of its own that takes models of any size."""
    monkeypatch.setenv("OCTAVO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(packing, "_LEAST", 0)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **WIDE}))
    tensors = {name: tensor.bfloat16() for name, tensor in checkpoint_tensors(**WIDE).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    return ModelFiles(
        name="org/tiny",
        root=str(tmp_path),
        weights=(str(tmp_path / "model.safetensors"),),
        format="safetensors",
        config=str(tmp_path / "config.json"),
        tokenizer="",
    )


def start(files: ModelFiles, **settings: Any) -> tuple[dict[str, Decision], list[int]]:
    """What was decided, and eight greedy tokens. Afterwards nothing is being written any more."""
    runner = Runner(EngineConfig.from_flat({**SMALL, **settings}), files)
    try:
        ready = runner.start(lambda stage, share: None)
        made = {d.field: d for d in ready.decisions}
        return made, _greedy(runner)
    finally:
        runner.close()
        for thread in threading.enumerate():
            if thread.name == "octavo-pack":
                thread.join()


def _greedy(runner: Runner) -> list[int]:
    sampling = Sampling(temperature=0.0, max_tokens=8)
    a = Admission(slot=0, tokens=(5, 17, 3, 44), prompt=4, start=0, seed=1, sampling=sampling)
    plans = [StepPlan(id=0, admit=(a,), blocks=((0, 0, 0, (1, 2)),), work=pack_work([Work(0, 0, 4, 0, 1)]))]
    plans += [StepPlan(id=i, work=pack_work([Work(0, 3 + i, 1, 0, 1)])) for i in range(1, 8)]
    out: list[int] = []
    for plan in plans:
        runner.forward(plan)
        out += tokens_of(runner.sample(None).result())[0]
    return out


def packed(files: ModelFiles) -> list[Path]:
    return packs(Path(files.root) / "home" / "packed")


def no_packing(*_: object) -> None:
    raise AssertionError("weights were packed again")


@pytest.mark.parametrize("settings", [{}, {"quantization": "int8"}, {"dtype": "float32"}])
def test_the_second_start_packs_nothing_and_answers_the_same(
    files: ModelFiles, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, tokens = start(files, **settings)
    assert made["weight_pages"].value == "private" and "next start" in made["weight_pages"].why
    assert len(packed(files)) == 1
    monkeypatch.setattr(Engine, "pack", no_packing)
    for pages in ("auto", "shared", "private"):
        made, again = start(files, **settings, weight_pages=pages)
        assert again == tokens and len(tokens) == 8
        assert pages in ("auto", made["weight_pages"].value)
    assert len(packed(files)) == 1


def test_small_pages_are_not_taken_unless_asked_for(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tokens = start(files)
    for huge, pages in ((False, "private"), (True, "shared")):
        monkeypatch.setattr("octavo.checkpoint.packs._huge", lambda address, nbytes, huge=huge: huge)
        made, again = start(files)
        assert (made["weight_pages"].value, again) == (pages, tokens)
        assert ("small pages" in made["weight_pages"].why) == (not huge)
        assert start(files, weight_pages="shared")[0]["weight_pages"].value == "shared"


def test_shared_pages_are_there_from_the_first_start(files: ModelFiles) -> None:
    made, tokens = start(files, weight_pages="shared")
    assert made["weight_pages"].value == "shared" and packed(files)[0].name in made["weight_pages"].why
    assert start(files)[1] == tokens


def test_a_broken_file_is_made_anew(files: ModelFiles, caplog: pytest.LogCaptureFixture) -> None:
    _, tokens = start(files)
    [path] = packed(files)
    path.write_bytes(path.read_bytes()[:-1] + b"\x77")
    path.chmod(0o600)
    made, again = start(files)
    assert again == tokens and made["weight_pages"].value == "private" and "made anew" in caplog.text
    made, again = start(files, weight_pages="shared")
    assert again == tokens and made["weight_pages"].value == "shared"


def test_what_decides_the_bytes_decides_the_file(files: ModelFiles) -> None:
    start(files)
    start(files, quantization="int8")
    start(files, cpu_level="portable")
    assert len(packed(files)) == 3
    weights = Path(files.weights[0])
    stat = weights.stat()
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert start(files)[0]["weight_pages"].value == "private" and len(packed(files)) == 4


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"weight_cache_bytes": 0}, "--weight-cache-bytes 0"),
        ({"weight_cache_bytes": 100}, "--weight-cache-bytes 100"),
        ({"load_format": "dummy"}, "random"),
    ],
)
def test_what_is_not_kept_says_why(files: ModelFiles, settings: dict[str, Any], reason: str) -> None:
    if settings.get("load_format"):
        files = msgspec.structs.replace(files, format="dummy")
    made, tokens = start(files, **settings)
    assert reason in made["weight_pages"].why and not packed(files) and len(tokens) == 8


def test_small_models_are_not_kept(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("OCTAVO_HOME", str(Path(files.root) / "home"))
    assert "under 16 MiB" in start(files)[0]["weight_pages"].why and not packed(files)


def test_a_full_disk_costs_nothing_but_time(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    _, tokens = start(files)
    packed(files)[0].unlink()
    monkeypatch.setattr(os, "pwrite", full)
    assert start(files, weight_pages="shared")[1] == tokens
    assert "No space left" in caplog.text and not packed(files)


def test_eight_bits_are_told(files: ModelFiles) -> None:
    made, _ = start(files, quantization="int8")
    assert made["weights"].value == "Q8_0" and "quantization" in made["weights"].why
    made, _ = start(files)
    assert made["weights"].value == "BF16"


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_as_asked(files: ModelFiles, threads: int) -> None:
    before = torch.get_num_threads()
    try:
        with mock.patch.object(native, "Engine", wraps=Engine) as engines:
            made, tokens = start(files, cpu_threads=threads)
        assert torch.get_num_threads() == 1, "torch's would wait beside the engine's"
    finally:
        torch.set_num_threads(before)
    assert made["cpu_threads"][1:] == (str(threads), made["cpu_threads"].why)
    assert engines.call_args.args[1] == threads
    assert ("get in each other's way" in made["cpu_threads"].why) == (threads > usable_cores(None))
    assert tokens == start(files)[1], "how work is spread changes no bit"


def affinities() -> dict[int, set[int]]:
    """The cores that each thread of this process may use."""
    return {int(task): os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")}


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_pinned_threads_keep_to_their_cores(files: ModelFiles, threads: int) -> None:
    before, usable = affinities(), sorted(os.sched_getaffinity(0))
    pinned: list[set[int]] = []

    def create(library: Library, *args: Any) -> Engine:
        engine = Engine(library, *args)
        engine.pack(PackedWeight(library, "F32", 16, 16), torch.zeros(16, 16), 0)  # all threads are there now
        pinned.extend(cores for task, cores in sorted(affinities().items()) if task not in before)
        return engine

    with mock.patch.object(native, "Engine", create):
        made, tokens = start(files, cpu_threads=threads, cpu_pin=True)
    assert pinned == [{usable[t % len(usable)]} for t in range(1, threads)]
    assert made["cpu_pin"].idle == (threads == 1) and os.sched_getaffinity(0) == set(usable)
    assert tokens == start(files)[1]


def levels() -> tuple[str, ...]:
    """Of this CPU, whatever library other tests look at."""
    found = find_library()
    assert not isinstance(found, str), found
    return found.levels


def test_levels_as_asked(files: ModelFiles) -> None:
    for level in levels():
        made, tokens = start(files, cpu_level=level)
        assert made["kernels"] == Decision("kernels", f"native {level}", "as asked") and len(tokens) == 8


def test_a_level_that_is_not_there_names_those_that_are(files: ModelFiles) -> None:
    with pytest.raises(UserError, match="avx1024") as refused:
        start(files, cpu_level="avx1024")
    assert refused.value.field == "cpu_level" and all(level in refused.value.hint for level in levels())


def test_what_needs_the_library_says_so(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native, "find_library", lambda: "no C++ compiler was found")
    with pytest.raises(Unsupported, match=r"needs the native kernels: no C\+\+ compiler") as refused:
        start(files, quantization="int8")
    assert refused.value.field == "quantization" and "leave quantization out" in refused.value.hint
    made, _ = start(files, cpu_level="avx2", cpu_pin=True)
    for field in ("cpu_level", "cpu_pin"):
        assert made[field].idle and "compiler" in made[field].why
    assert made["kernels"].value == "torch" and "slower" in caplog.text and "compiler" in caplog.text


def test_blocks_need_a_file_that_has_them(files: ModelFiles) -> None:
    with pytest.raises(UserError, match="safetensors") as refused:
        start(files, quantization="gguf")
    assert refused.value.field == "quantization" and ".gguf" in refused.value.hint


@pytest.mark.parametrize("asked", ["cpu", "torch_ref"])
def test_attention_as_asked_runs_on_torch(files: ModelFiles, asked: str) -> None:
    made, tokens = start(files, attention_backend=asked)
    assert made["attention"] == Decision("attention", asked, "as asked") and len(tokens) == 8
    assert made["kernels"].value == "torch" and asked in made["kernels"].why


@pytest.mark.parametrize("asked", ["triton", "FLASHINFER"])
def test_attention_of_gpus_is_refused_with_the_reason(files: ModelFiles, asked: str) -> None:
    with pytest.raises(UserError, match="not on cpu") as refused:
        start(files, attention_backend=asked)
    assert refused.value.field == "attention_backend" and "--attention-backend" in refused.value.hint
