"""From files to a working device: a tiny checkpoint on disk, and what is refused before loading."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from octavo.attention.cpu import CPUAttention
from octavo.config.engine import EngineConfig
from octavo.core.errors import NotFound, UserError
from octavo.core.facts import ModelFiles
from octavo.core.messages import Admission, StepPlan, Work, pack_work
from octavo.core.request import Sampling
from octavo.core.runner import Runner as RunnerProtocol
from octavo.nn.protocols import CacheSpec
from octavo.runner.cache import Caches, lay_out
from octavo.runner.runner import Runner
from tests.cpu.runner.tiny import CONFIG, checkpoint_tensors, greedy_decode, tiny_model, tokens_of

SMALL = dict(dtype="float32", num_gpu_blocks_override=20, block_size=4, max_num_seqs=4)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    folder: Path = tmp_path_factory.mktemp("tiny")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(checkpoint_tensors(), folder / "model.safetensors")
    return ModelFiles(
        name="tiny",
        root=str(folder),
        weights=(str(folder / "model.safetensors"),),
        format="safetensors",
        config=str(folder / "config.json"),
        tokenizer="",
    )


def started(files: ModelFiles, **settings: Any) -> tuple[Runner, Any, list[str]]:
    runner = Runner(EngineConfig.from_flat({**SMALL, **settings}), files)
    stages: list[str] = []
    ready = runner.start(lambda stage, share: stages.append(stage))
    return runner, ready, stages


def test_ready_leaves_nothing_open(files):
    runner, ready, stages = started(files)
    protocol: RunnerProtocol = runner
    assert ready.max_model_len == 80, "20 blocks of 4"
    assert (ready.dtype, ready.attention, ready.budget) == ("float32", "cpu", 512)
    assert (ready.cache.pages, ready.cache.max_rows, ready.cache.groups[0].tokens_per_page) == (21, 4, 4)
    assert ready.cache.page_bytes == 2 * 4 * 2 * 2 * 8 * 4
    assert ready.facts.vocab_size == CONFIG["vocab_size"]
    assert list(dict.fromkeys(stages)) == ["plan", "weights", "warm-up"]
    assert {"attention", "max_model_len", "cpu_threads"} <= {d.field for d in ready.decisions}
    assert protocol.call("memory", {})[-1][0] == "total" == ready.memory[-1].name
    with pytest.raises(NotFound, match="memory"):
        protocol.call("memorise", {})
    protocol.close()


def test_the_loaded_model_decodes_and_the_warm_up_left_no_trace(files):
    runner, _, _ = started(files)
    prompt = [5, 17, 3, 44, 8]
    a = Admission(
        slot=0,
        tokens=tuple(prompt),
        prompt=5,
        start=0,
        seed=1,
        sampling=Sampling(temperature=0.0, max_tokens=3),
    )
    out: list[int] = []
    plans = [
        StepPlan(id=0, admit=(a,), blocks=((0, 0, 0, (1, 2)),), work=pack_work([Work(0, 0, 5, 0, 1)])),
        StepPlan(id=1, work=pack_work([Work(0, 5, 1, 0, 1)])),
        StepPlan(id=2, same=True),
    ]
    for plan in plans:
        runner.forward(plan)
        out += tokens_of(runner.sample(None).result())[0]
    model, backend = tiny_model()
    assert out == greedy_decode(model, backend, prompt, 3)
    runner.close()


@pytest.mark.parametrize(
    "settings", [dict(dtype="bfloat16"), dict(load_format="dummy"), dict(kv_cache_dtype="bfloat16")]
)
def test_other_ways_of_starting(files, settings):
    runner, ready, _ = started(files, **settings)
    assert ready.dtype == settings.get("dtype", "float32")
    runner.close()


def test_overrides_reach_the_model(files):
    runner, ready, _ = started(files, hf_overrides={"max_position_embeddings": 64})
    assert ready.max_model_len == 64
    runner.close()


@pytest.mark.parametrize(
    ("settings", "field", "remedy"),
    [
        (dict(max_model_len=300), "max_model_len", "--max-model-len 256"),
        (dict(max_model_len=100), "max_model_len", "--max-model-len 80"),
        (dict(num_gpu_blocks_override=10**10), "num_gpu_blocks_override", "--num-gpu-blocks-override "),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(files, settings, field, remedy):
    runner = Runner(EngineConfig.from_flat({**SMALL, **settings}), files)
    stages: list[str] = []
    with pytest.raises(UserError) as refused:
        runner.start(lambda stage, share: stages.append(stage))
    assert refused.value.field == field
    assert remedy in refused.value.hint
    assert stages == []


def test_memory_is_brought_in_beside_a_writer():
    layout = lay_out([CacheSpec("layer", 2, 64)], CPUAttention(), 16, torch.float32)
    caches = Caches(layout, 2000, torch.float32, torch.device("cpu"))
    cache = caches.tensors["layer"]
    caches.populate()
    for page in range(0, 2000, 7):
        cache[page].fill_(page)
    for thread in threading.enumerate():
        if thread.name == "octavo-cache":
            thread.join()
    assert all(bool((cache[page] == (page if page % 7 == 0 else 0)).all()) for page in range(2000))
    caches.close()
