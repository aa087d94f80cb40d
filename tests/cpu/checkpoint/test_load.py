"""Names, shapes and files that do not fit are refused by name; what fits is read exactly."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from octavo.attention.cpu import CPUAttention
from octavo.checkpoint.load import load_model
from octavo.checkpoint.open import open_checkpoint, stream
from octavo.core.errors import ArtefactError, EngineError, Unsupported
from octavo.core.facts import ModelFiles
from octavo.models.registry import build, survey
from octavo.nn.build import Build
from octavo.nn.protocols import Model
from octavo.quant.choose import choose_quantization
from octavo.quant.none import Plain
from tests.cpu.models.driver import Driver, files, load
from tests.cpu.models.tiny import save


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save("llama", tmp_path)
    return tmp_path


def these(folder: Path) -> ModelFiles:
    return files(
        str(folder), sorted(map(str, folder.glob("*.safetensors"))), config=str(folder / "config.json")
    )


def rewrite(folder: Path, change: Any) -> None:
    tensors: dict[str, Tensor] = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def reconfigure(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def loaded(folder: Path) -> Model:
    return load(these(folder), CPUAttention())


def test_precomputed_frequencies_are_ignored(saved: Path) -> None:
    rewrite(saved, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    loaded(saved)


def test_a_tied_head_stored_twice_is_ignored(tmp_path: Path) -> None:
    save("qwen3", tmp_path)
    rewrite(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    loaded(tmp_path)


def test_older_configurations_mean_the_same(tmp_path: Path) -> None:
    """rope_theta and rope_scaling at the top, torch_dtype: as files were written for years."""
    new, old = tmp_path / "new", tmp_path / "old"
    for folder in (new, old):
        save("llama3-rope", folder)
    values = json.loads((old / "config.json").read_text())
    rope = values.pop("rope_parameters")
    values["rope_theta"] = rope.pop("rope_theta")
    values["rope_scaling"] = {("type" if key == "rope_type" else key): value for key, value in rope.items()}
    values["torch_dtype"] = values.pop("dtype")
    (old / "config.json").write_text(json.dumps(values))
    tokens = random.Random(0).choices(range(199), k=50)
    first, second = (Driver(loaded(folder)).step([("a", tokens)])[0] for folder in (new, old))
    assert torch.equal(first, second)


def test_overrides_are_laid_over_the_configuration(saved: Path) -> None:
    checkpoint = open_checkpoint(
        these(saved), overrides={"rope_parameters": {"rope_theta": 5.0}, "rms_norm_eps": 0.5}
    )
    assert checkpoint.hf.number("rms_norm_eps") == 0.5
    assert checkpoint.hf.sub("rope_parameters").number("rope_theta") == 5.0
    assert checkpoint.hf.sub("rope_parameters").text("rope_type") == "default"


def test_truncated_and_mutated_safetensors(saved: Path) -> None:
    path = saved / "model.safetensors"
    data = path.read_bytes()
    head = 8 + int.from_bytes(data[:8], "little")
    chance = random.Random(2)
    refused = 0
    for trial in range(300):
        mutant = bytearray(data)
        if trial < 60:
            mutant = mutant[: chance.randrange(len(data))]
        else:
            at = chance.randrange(head)
            mutant[at] ^= 1 << chance.randrange(8)
        path.write_bytes(mutant)
        try:
            loaded(saved)
        except EngineError as error:
            assert isinstance(error, ArtefactError | Unsupported)
            refused += 1
            assert trial >= 60 or str(path) in error.message
        else:
            assert trial >= 60
    assert refused > 200


def test_survey_counts_what_loading_allocates(saved: Path) -> None:
    checkpoint = open_checkpoint(these(saved))
    backend = CPUAttention()
    found = survey(checkpoint.hf, checkpoint.index, torch.bfloat16, backend, Plain())
    b = Build.root(checkpoint.index, dtype=torch.bfloat16, backend=backend, quant=Plain())
    model = build(checkpoint.hf, b)
    assert found.weight_bytes == b.ledger.nbytes
    assert found.parameters == sum(t.numel() for _, t in stream(checkpoint))
    assert found.specs == model.cache_specs
    assert found.weight_bytes == 2 * found.parameters + 4 * 4  # and the rotary frequencies


def test_progress_ends_at_one(saved: Path) -> None:
    checkpoint = open_checkpoint(these(saved))
    b = Build.root(checkpoint.index, dtype=torch.float32, backend=CPUAttention(), quant=Plain())
    build(checkpoint.hf, b)
    seen: list[float] = []
    threads = torch.get_num_threads()
    load_model(checkpoint, b, seen.append)
    assert seen == sorted(seen) and seen[-1] == 1.0 and len(seen) == len(checkpoint.index)
    assert torch.get_num_threads() == threads


def test_dummy_weights_need_only_a_configuration(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    of = these(saved)

    def weights(seed: int) -> dict[str, Tensor]:
        checkpoint = open_checkpoint(of, "dummy", seed=seed)
        b = Build.root(
            checkpoint.index,
            dtype=torch.float32,
            backend=CPUAttention(),
            quant=choose_quantization(checkpoint.hf, checkpoint.index),
        )
        build(checkpoint.hf, b)
        targets = {sink.name: sink.target for sink in b.sinks()}
        load_model(checkpoint, b)
        return targets

    first, same, other = weights(0), weights(0), weights(1)
    for name, weight in first.items():
        assert torch.equal(weight, same[name]) and not torch.equal(weight, other[name])
        assert 0 < weight.abs().max() <= 1e-3
    assert not torch.equal(
        first["model.layers.0.mlp.up_proj.weight"], first["model.layers.1.mlp.up_proj.weight"]
    )
