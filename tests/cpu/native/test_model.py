"""Whole models: the recorded program against the torch path, and its invariance."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from octavo.attention.native import NativeAttention
from octavo.attention.torch_ref import TorchRef
from octavo.checkpoint.dummy import DummyCheckpoint
from octavo.checkpoint.load import load_model
from octavo.core.hf_config import HFConfig
from octavo.models.blocks import Decoder
from octavo.models.native import NativeDecoder, refused
from octavo.models.packed import Storage, weight_bytes
from octavo.models.registry import MODELS, build
from octavo.nn.attention import prepare
from octavo.nn.build import Build
from octavo.nn.forward import Forward, GroupInputs, HostBounds
from octavo.nn.protocols import AttentionBackend, Checkpoint, Model
from octavo.ops.cpu.lib import Engine, Library
from octavo.quant.none import Plain

PAGE, PAGES = 16, 70
BASE = dict(
    vocab_size=300, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    intermediate_size=80, rms_norm_eps=1e-5, max_position_embeddings=512, hidden_act="silu",
)  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True},
    "untied with biases": {"architectures": ["LlamaForCausalLM"], "attention_bias": True, "mlp_bias": True},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "hidden_act": "gelu"},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "head_dim": 32},
    "mistral": {"architectures": ["MistralForCausalLM"], "sliding_window": 20},
}


class Big(DummyCheckpoint):
    """Dummy weights large enough that every part of a layer matters."""

    def read(self, name: str, into: Tensor) -> None:
        wide = torch.empty(into.shape)
        super().read(name, wide)
        into.copy_(wide * 100 + (1.0 if "norm" in name else 0.0))


def config(name: str, tmp_path: Path, **changes: Any) -> HFConfig:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**BASE, **CONFIGS[name], **changes}))
    return HFConfig.load(path)


def torch_model(hf: HFConfig, backend: AttentionBackend, checkpoint: Checkpoint | None = None) -> Decoder:
    b = Build.root({}, dtype=torch.float32, backend=backend, quant=Plain())
    model = build(hf, b)
    load_model(checkpoint or Big(hf), b)
    return model


def native_model(
    hf: HFConfig,
    specs: Any,
    library: Library,
    engine: Engine,
    storage: Storage,
    cache: torch.dtype = torch.float32,
    checkpoint: Checkpoint | None = None,
) -> NativeDecoder:
    spec = MODELS.get(hf.architecture).read(hf)
    assert refused(MODELS.get(hf.architecture), spec, cache, PAGE) is None
    return NativeDecoder(
        spec, specs, checkpoint or Big(hf), library, engine, page=PAGE, cache=cache, storage=storage
    )


def inputs(model: Model, caches: dict[str, Tensor], rows: list[tuple[list[int], int, list[int]]]) -> Forward:
    """rows: (tokens, first position, pages)."""
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    starts = [0]
    tables = torch.zeros(len(rows), max(20, *(len(pages) for _, _, pages in rows)), dtype=torch.int32)
    for i, (ids, start, pages) in enumerate(rows):
        tokens += ids
        at = range(start, start + len(ids))
        positions += at
        slots += [pages[p // PAGE] * PAGE + p % PAGE for p in at]
        starts.append(len(tokens))
        tables[i, : len(pages)] = torch.tensor(pages)
    lengths = torch.tensor([start + len(ids) for ids, start, _ in rows], dtype=torch.int32)
    group = GroupInputs(lengths, tables, torch.tensor(slots))
    groups = len({s.group for s in model.cache_specs})
    return Forward(
        torch.tensor(tokens), torch.tensor(positions), torch.tensor(starts, dtype=torch.int32), torch.tensor([0]),
        (group,) * groups, caches, HostBounds(len(rows), len(tokens), max(len(r[0]) for r in rows), int(lengths.max())),
    )  # fmt: skip


def caches_of(
    model: Model, backend: AttentionBackend, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    return {s.name: torch.zeros(backend.layout(s, PAGES, PAGE), dtype=dtype) for s in model.cache_specs}


def run(model: Model, backend: AttentionBackend, caches: dict[str, Tensor], rows: Any) -> Tensor:
    f = inputs(model, caches, rows)
    with torch.inference_mode():
        prepare(backend, model.cache_specs, f)
        return model.logits(model.forward(f))


ROWS = [(list(range(1, 40)), 0, [3, 7, 1]), ([5], 0, [9]), (list(range(100, 117)), 0, [12, 2])]
NEXT = [([200], 39, [3, 7, 1]), ([201], 1, [9]), ([202], 17, [12, 2])]


@pytest.mark.parametrize("name", CONFIGS)
def test_native_decoder_equals_torch(name: str, tmp_path: Path, library: Library, engine: Engine) -> None:
    hf = config(name, tmp_path)
    reference, plain = torch_model(hf, TorchRef()), TorchRef()
    native = native_model(hf, reference.cache_specs, library, engine, Storage(torch.float32))
    backend = NativeAttention(engine, torch.float32, PAGE)
    a, b = caches_of(reference, plain), caches_of(reference, backend)
    for rows in (ROWS, NEXT):  # the second step reads what the first one stored
        want, got = run(reference, plain, a, rows), run(native, backend, b, rows)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral"])
def test_native_attention_serves_torch_models(name: str, tmp_path: Path, engine: Engine) -> None:
    hf, plain, backend = config(name, tmp_path), TorchRef(), NativeAttention(engine, torch.float32, PAGE)
    reference, mixed = torch_model(hf, plain), torch_model(hf, backend)
    a, b = caches_of(reference, plain), caches_of(mixed, backend)
    for rows in (ROWS, NEXT):
        torch.testing.assert_close(
            run(mixed, backend, b, rows), run(reference, plain, a, rows), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(
    "storage, cache, error",
    [
        (Storage(torch.bfloat16), torch.bfloat16, 0.02),
        (Storage(int8=True), torch.bfloat16, 0.05),
        (Storage(torch.float32), torch.int8, 0.02),
    ],
)
def test_narrow_storage_stays_close(
    storage: Storage, cache: torch.dtype, error: float, tmp_path: Path, library: Library, engine: Engine
) -> None:
    hf, backend = config("llama", tmp_path), NativeAttention(engine, cache, PAGE)
    reference = torch_model(hf, TorchRef())
    native = native_model(hf, reference.cache_specs, library, engine, storage, cache)
    want = run(reference, TorchRef(), caches_of(reference, TorchRef()), ROWS)
    got = run(native, backend, caches_of(native, backend, cache), ROWS)
    assert 0.0 < float((got - want).norm() / want.norm()) < error


@pytest.mark.parametrize("cache", [torch.bfloat16, torch.int8])
@pytest.mark.parametrize("storage", [Storage(torch.float32), Storage(torch.bfloat16), Storage(int8=True)])
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_do_not_depend_on_cut_or_company(
    name: str, storage: Storage, cache: torch.dtype, tmp_path: Path, library: Library, engine: Engine
) -> None:
    hf, backend = config(name, tmp_path), NativeAttention(engine, cache, PAGE)
    specs = torch_model(hf, TorchRef()).cache_specs
    native = native_model(hf, specs, library, engine, storage, cache)
    ids, pages = [(7 * i) % 300 for i in range(130)], list(range(20, 29))
    fresh: Callable[[], dict[str, Tensor]] = lambda: caches_of(native, backend, cache)  # noqa: E731
    whole = run(native, backend, fresh(), [(ids, 0, pages)])
    for cut in (1, 7, 16):
        caches, parts = fresh(), []
        for at in range(0, 130, cut):
            others = [([at % 300], 0, [1 + j]) for j in range(at % 3)]
            mine = (ids[at : at + cut], at, pages)
            parts.append(run(native, backend, caches, [*others, mine])[len(others) :])
        assert torch.equal(torch.cat(parts), whole)


def test_weight_bytes_are_exact(tmp_path: Path, library: Library) -> None:
    spec = MODELS.get("LlamaForCausalLM").read(config("llama", tmp_path))
    per_layer = library.packed_bytes("F32", 128, 48) + library.packed_bytes("F32", 48, 64)
    per_layer += library.packed_bytes("F32", 160, 48) + library.packed_bytes("F32", 48, 80)
    total = 3 * per_layer + library.packed_bytes("F32", 300, 48)
    assert weight_bytes(library, spec, {}, Storage(torch.float32)) == total


def test_refusals_say_why(tmp_path: Path) -> None:
    kind = MODELS.get("LlamaForCausalLM")
    spec = kind.read(config("llama", tmp_path))
    assert "block size" in (refused(kind, spec, torch.float32, 8) or "")
    assert "KV cache" in (refused(kind, spec, torch.float16, 16) or "")
    assert "head size" in (refused(kind, spec._replace(head_dim=20), torch.float32, 16) or "")

    class Odd(kind):  # type: ignore[misc, valid-type]
        def forward(self, f: Forward) -> Tensor:
            return super().forward(f)

    assert "own way" in (refused(Odd, spec, torch.float32, 16) or "")
