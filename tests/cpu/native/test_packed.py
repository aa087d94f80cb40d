"""Formats of weights: what is rounded and how far, which format is chosen, and where it lies in memory."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from octavo.attention.native import NativeAttention
from octavo.checkpoint.dequant import q8_0
from octavo.checkpoint.open import open_checkpoint
from octavo.config.model import ModelConfig
from octavo.core.facts import TensorInfo
from octavo.models.native import NativeDecoder
from octavo.models.packed import Storage, all_runs, places
from octavo.models.registry import MODELS
from octavo.nn.attention import prepare
from octavo.nn.protocols import CacheSpec
from octavo.ops.cpu.eight import to_blocks, to_rows
from octavo.ops.cpu.lib import Engine, Library, PackedWeight
from octavo.runner.native import choose_storage
from tests.cpu.checkpoint.test_gguf import metadata, theirs_to_gguf
from tests.cpu.models.driver import files
from tests.cpu.models.tiny import reference, save
from tests.cpu.native.test_model import caches_of, config, inputs
from tests.unit.checkpoint.write_gguf import gguf_bytes

GIB = 1 << 30
HEADS = {"attention.key_length": 16, "attention.value_length": 16}


def test_a_block_is_within_half_a_step() -> None:
    plain = torch.randn(5, 96) * torch.logspace(-4, 3, 15)[:, None].view(5, 3, 1).expand(5, 3, 32).reshape(
        5, 96
    )
    plain[2] = 0
    raw, back = to_blocks(plain), torch.empty(15, 32)
    assert raw.shape == (5, 3 * 34) and raw.dtype == torch.uint8
    q8_0(raw.view(15, 34), back)
    step = plain.view(15, 32).abs().amax(1, keepdim=True) / 127
    assert ((back - plain.view(15, 32)).abs() <= step * (0.5 + 127 * 2**-11) + 2**-24 * 127).all()


def test_a_block_as_a_file_stores_it_stays_as_it_is() -> None:
    codes = torch.randint(-127, 128, (40, 32), dtype=torch.int8)
    codes[:, 0] = 127  # so that the scale is the one it was made with
    scales = (torch.rand(40, 1) + 0.01).half()
    raw = torch.cat((scales.view(torch.uint8), codes.view(torch.uint8)), 1)
    wide = torch.empty(40, 32)
    q8_0(raw, wide)
    assert torch.equal(to_blocks(wide).view(40, 34), raw)


def test_a_row_is_within_half_a_step() -> None:
    plain = torch.randn(7, 50) * torch.logspace(-6, 3, 7)[:, None]
    plain[3] = 0
    codes, scales = to_rows(plain)
    assert codes.dtype == torch.int8 and bool((scales[[0, 6]] > 0).all())
    error = (codes * scales[:, None] - plain).abs()
    assert (error <= scales[:, None] * 0.5001).all()


def test_the_library_reads_back_what_was_rounded(library: Library, engine: Engine) -> None:
    plain = torch.randn(20, 64)
    weight = PackedWeight(library, "Q8_0", 20, 64)
    engine.pack(weight, to_blocks(plain), 0)
    wide = torch.empty(40, 32)
    q8_0(to_blocks(plain).view(40, 34), wide)
    assert torch.equal(torch.stack([engine.row(weight, i) for i in range(20)]), wide.view(20, 64))


def index(*types: str) -> dict[str, TensorInfo]:
    return {f"t{i}": TensorInfo(type, (32, 32), 1024) for i, type in enumerate(types)}


@pytest.mark.parametrize(
    ("asked", "types", "nbytes", "stored", "reason"),
    [
        ({}, ("BF16",), 9 * GIB, Storage(blocks=False), "dtype"),
        ({}, ("Q4_1", "F32"), GIB // 2, Storage(blocks=False), "--quantization gguf"),
        ({}, ("Q4_1", "F32"), 2 * GIB, Storage(), "1 GiB"),
        ({}, ("Q5_1",), 2 * GIB, Storage(blocks=False), "dtype"),
        ({"dtype": "bfloat16"}, ("Q4_1",), 2 * GIB, Storage(blocks=False), "dtype was given"),
        ({"quantization": "gguf"}, ("Q4_1",), GIB // 2, Storage(), "the file's own blocks"),
        (
            {"quantization": "gguf", "dtype": "bfloat16"},
            ("Q4_1",),
            GIB // 2,
            Storage(),
            "the file's own blocks",
        ),
        ({"quantization": "int8"}, ("BF16",), GIB // 2, Storage(int8=True), "more than 8 bits"),
        ({"quantization": "int8"}, ("Q4_1", "F16"), 2 * GIB, Storage(int8=True), "more than 8 bits"),
    ],
)
def test_storage_is_chosen_with_a_reason(
    asked: dict[str, Any], types: tuple[str, ...], nbytes: int, stored: Storage, reason: str
) -> None:
    storage, why = choose_storage(ModelConfig(**asked), "bfloat16", index(*types), nbytes)
    assert storage == stored and reason in why
    wide, _ = choose_storage(ModelConfig(**asked), "float32", index(*types), nbytes)
    assert wide == stored._replace(dtype=torch.float32)


@pytest.mark.parametrize(
    ("storage", "stored", "k", "format"),
    [
        (Storage(), "Q4_K", 256, "Q4_K"),
        (Storage(), "Q5_K", 256, "BF16"),
        (Storage(torch.float32), "BF16", 32, "F32"),
        (Storage(blocks=False), "Q8_0", 32, "BF16"),
        (Storage(int8=True), "BF16", 64, "Q8_0"),
        (Storage(int8=True), "F16", 48, "INT8"),
        (Storage(int8=True), "Q4_0", 64, "Q4_0"),
        (Storage(int8=True), "Q5_K", 256, "Q8_0"),
        (Storage(int8=True, eight="INT8"), "F32", 64, "INT8"),
        (Storage(int8=True, head=False), "BF16", 64, "BF16"),
    ],
)
def test_the_format_of_a_matrix(storage: Storage, stored: str, k: int, format: str) -> None:
    assert storage.format(stored, "lm_head.weight", k) == format


@pytest.mark.parametrize("name", ["llama", "untied with biases"])
def test_runs_lie_side_by_side(name: str, tmp_path: Path, library: Library) -> None:
    hf = config(name, tmp_path).overlaid({"hidden_size": 64})
    spec = MODELS.get("LlamaForCausalLM").read(hf)
    q = "model.layers.0.self_attn.q_proj.weight"
    held, storage = {q: TensorInfo("Q8_0", (64, 64), 64 * 68)}, Storage(torch.float32)
    found = places(library, spec, held, storage)
    sizes = {
        run.parts: library.packed_bytes(run.format, run.rows, run.k) for run in all_runs(spec, held, storage)
    }
    assert sizes.keys() == found.at.keys() and ((q, 64),) in sizes, "a part of another format is alone"
    order = sorted(found.at.items(), key=lambda entry: entry[1])
    for (parts, start), (_, after) in pairwise(order):
        assert start % 64 == 0 and start + sizes[parts] <= after
    assert order[-1][1] + sizes[order[-1][0]] <= found.nbytes


def test_levels_are_those_that_run(library: Library) -> None:
    assert library.levels[0] == "portable" and library.level in library.levels
    for level in library.levels:
        Engine(library, 1, level).close()


@pytest.mark.parametrize("kind", ["safetensors", "F32", "F16", "BF16"])
def test_unquantised_files_of_both_formats_are_rounded(
    kind: str, tmp_path: Path, library: Library, engine: Engine
) -> None:
    theirs = save("qwen3", tmp_path, dtype=torch.bfloat16)
    where = files(str(tmp_path), [str(tmp_path / "model.safetensors")], config=str(tmp_path / "config.json"))
    if kind != "safetensors":
        numbers = {"F32": 0, "F16": 1, "BF16": 30}
        data = gguf_bytes(metadata("qwen3", **HEADS), theirs_to_gguf(theirs.float(), "qwen3", numbers[kind]))
        (tmp_path / "m.gguf").write_bytes(data)
        where = files(str(tmp_path), [str(tmp_path / "m.gguf")], "gguf")
    checkpoint = open_checkpoint(where)
    spec = MODELS.get(checkpoint.hf.architecture).read(checkpoint.hf)
    specs = tuple(
        CacheSpec(f"model.layers.{i}.self_attn", spec.kv_heads, spec.head_dim) for i in range(spec.layers)
    )
    storage = Storage(int8=True)
    native = NativeDecoder(
        spec, specs, checkpoint, library, engine, page=16, cache=torch.float32, storage=storage
    )
    assert {run.format for run in all_runs(spec, checkpoint.index, storage)} <= {"Q8_0", "INT8"}
    backend, tokens = NativeAttention(engine, torch.float32, 16), list(range(3, 33))
    f = inputs(native, caches_of(native, backend), [(tokens, 0, [3, 5])])
    with torch.inference_mode():
        prepare(backend, specs, f)
        got = native.logits(native.forward(f))
    want = reference(theirs.float(), tokens)
    assert float((got - want).norm() / want.norm()) < 0.06
    checkpoint.close()
