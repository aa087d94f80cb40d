"""Formats of weights: what is rounded and how far, which format is chosen, and where it lies in memory."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from octavo.checkpoint.dequant import q8_0
from octavo.config.model import ModelConfig
from octavo.core.facts import TensorInfo
from octavo.models.packed import Storage, all_runs, places
from octavo.models.registry import MODELS
from octavo.ops.cpu.eight import to_blocks, to_rows
from octavo.ops.cpu.lib import Engine, Library, PackedWeight, levels_here
from octavo.runner.native import choose_storage
from tests.cpu.native.test_model import config

GIB = 1 << 30


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
    known = levels_here(library)
    assert known[0] == "portable" and known[-1] == library.level
    for level in known:
        Engine(library, 1, level).close()
