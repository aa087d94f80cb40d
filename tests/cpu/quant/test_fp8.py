"""8-bit projections: made while a checkpoint is read, or stored by it; their stated error; refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from octavo.attention.cpu import CPUAttention
from octavo.checkpoint.load import load_model
from octavo.checkpoint.open import open_checkpoint
from octavo.core.errors import ArtefactError, Unsupported
from octavo.core.facts import ModelFiles, Platform
from octavo.core.hf_config import HFConfig
from octavo.models.registry import build, survey
from octavo.nn.build import Build
from octavo.nn.protocols import Model, Part, Quantization
from octavo.ops.quant import project_eight, to_eight_bits
from octavo.quant.choose import choose_quantization
from octavo.quant.fp8 import Fp8, Fp8Weights, why_not_fp8
from octavo.quant.none import Plain, PlainWeights
from tests.cpu.models.driver import Driver, files
from tests.cpu.models.tiny import save

GPU = Platform(kind="cuda", name="H100", cores=1, memory_total=1, memory_free=1, features=("sm90",))
CPU = Platform(kind="cpu", name="cpu", cores=1, memory_total=1, memory_free=1)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save("qwen3", tmp_path)
    return tmp_path


def of(root: Path) -> ModelFiles:
    return files(str(root), [str(root / "model.safetensors")], config=str(root / "config.json"))


def read(root: Path, quant: Quantization | None = None) -> Model:
    checkpoint = open_checkpoint(of(root), "auto")
    quant = quant or choose_quantization(checkpoint.hf, checkpoint.index)
    b = Build.root(checkpoint.index, dtype=torch.float32, backend=CPUAttention(), quant=quant)
    model = build(checkpoint.hf, b)
    load_model(checkpoint, b)
    checkpoint.close()
    return model


def logits(model: Model) -> torch.Tensor:
    return Driver(model).step([("row", [5, 9, 2, 77, 31, 8])])[0]


def test_a_channel_is_within_a_sixteenth() -> None:
    """Half a step of three mantissa bits; what lies near zero within half the smallest step."""
    torch.manual_seed(0)
    weight = torch.randn(40, 64) * torch.logspace(-6, 3, 40)[:, None]
    weight[3] = 0
    values, scale = to_eight_bits(weight)
    assert values.dtype == torch.float8_e4m3fn and scale.shape == (40,) and (scale > 0).all()
    wrong = (values.float() * scale[:, None] - weight).abs()
    assert (wrong <= weight.abs() / 16 + scale[:, None] * 2.0**-10).all()
    assert torch.equal(values[3].float(), torch.zeros(64))


def rounded_by_hand(root: Path, matrix: bool = False) -> None:
    """The plain checkpoint with the values 8 bits would leave of its projections."""
    tensors = load_file(root / "model.safetensors")
    for name in [n for n in tensors if n.endswith("_proj.weight")]:
        values, scale = by_matrix(tensors[name]) if matrix else to_eight_bits(tensors[name])
        tensors[name] = values.float() * scale.reshape(-1, 1)
    save_file(tensors, root / "model.safetensors")


def by_matrix(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weight.abs().max() / 448
    return (weight / scale).to(torch.float8_e4m3fn), scale


def test_rounding_while_reading(saved: Path) -> None:
    plain, eight = logits(read(saved)), logits(read(saved, Fp8(stored=False)))
    rounded_by_hand(saved)
    torch.testing.assert_close(eight, logits(read(saved)), rtol=1e-4, atol=1e-4)
    # each product is off by 2.6 % (root mean square); a random model hides none of it
    assert 0.01 < (eight - plain).norm() / plain.norm() < 0.2


def test_a_rounded_model_takes_half_of_16_bits_while_it_is_built(saved: Path) -> None:
    checkpoint = open_checkpoint(of(saved), "auto")
    needs = [
        survey(checkpoint.hf, checkpoint.index, torch.bfloat16, CPUAttention(), quant)
        for quant in (Plain(), Fp8(stored=False))
    ]
    b = Build.root(checkpoint.index, dtype=torch.bfloat16, backend=CPUAttention(), quant=Fp8(stored=False))
    build(checkpoint.hf, b)
    projections = sum(s.target.numel() for s in b.sinks() if s.take is not None)
    assert needs[0].weight_bytes - needs[1].weight_bytes > projections * 0.8
    assert all(s.target.is_meta for s in b.sinks() if s.take is not None)


def store(root: Path, scales: str, skip: str = "") -> None:
    """Turns a plain checkpoint into one of e4m3, as quantising tools write it."""
    tensors = load_file(root / "model.safetensors")
    for name in [n for n in tensors if n.endswith("_proj.weight") and not (skip and skip in n)]:
        weight = tensors[name].float()
        values, scale = to_eight_bits(weight)
        if scales == "matrix":
            values, scale = by_matrix(weight)
        tensors[name] = values
        tensors[name + "_scale"] = scale[:, None] if scales == "column" else scale
        tensors[name.removesuffix("weight") + "input_scale"] = torch.ones(())
    save_file(tensors, root / "model.safetensors")
    config = json.loads((root / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    (root / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("scales", ["row", "column", "matrix"])
def test_a_stored_checkpoint_is_read_as_it_is(
    saved: Path, scales: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("by_hand")
    save("qwen3", other)
    rounded_by_hand(other, scales == "matrix")
    store(saved, scales)
    torch.testing.assert_close(logits(read(saved)), logits(read(other)), rtol=1e-4, atol=1e-4)


def test_modules_left_out_stay_plain(saved: Path) -> None:
    store(saved, "row", skip="o_proj")
    checkpoint = open_checkpoint(of(saved), "auto")
    quant = choose_quantization(checkpoint.hf, checkpoint.index)
    b = Build.root(checkpoint.index, dtype=torch.float32, backend=CPUAttention(), quant=quant)
    layer = b / "model" / "layers" / 0 / "self_attn"
    shape = checkpoint.index["model.layers.0.self_attn.o_proj.weight"].shape
    assert isinstance(quant.linear(layer, (Part("o_proj", shape[0]),), shape[1], False), PlainWeights)
    rows, n_in = checkpoint.index["model.layers.0.self_attn.q_proj.weight"].shape
    assert isinstance(quant.linear(layer, (Part("q_proj", rows),), n_in, False), Fp8Weights)
    assert logits(read(saved)).isfinite().all()


def test_eight_bits_without_their_scale_are_refused(saved: Path) -> None:
    store(saved, "row")
    config = json.loads((saved / "config.json").read_text())
    del config["quantization_config"]
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtefactError, match="no place for"):
        read(saved)


def config_of(**said: object) -> HFConfig:
    return HFConfig({"quantization_config": said} if said else {}, "config.json")


def test_who_may_have_it() -> None:
    assert isinstance(choose_quantization(config_of(), {}, "fp8", GPU), Fp8)
    assert isinstance(choose_quantization(config_of(), {}, None, CPU), Plain)
    assert isinstance(choose_quantization(config_of(), {}, "gguf", CPU), Plain)
    assert isinstance(choose_quantization(config_of(quant_method="fp8"), {}, None, GPU), Fp8)
    with pytest.raises(Unsupported, match="run on a GPU, not on cpu"):
        choose_quantization(config_of(), {}, "fp8", CPU)
    with pytest.raises(Unsupported, match=r"stored in fp8.*not on cpu"):
        choose_quantization(config_of(quant_method="fp8"), {}, None, CPU)
    with pytest.raises(Unsupported, match="scale a block"):
        choose_quantization(config_of(quant_method="fp8", weight_block_size=[128, 128]), {}, None, GPU)
    with pytest.raises(Unsupported) as refused:
        choose_quantization(config_of(), {}, "fp8", CPU)
    assert "--quantization int8" in refused.value.hint
    older = Platform(kind="cuda", name="A100", cores=1, memory_total=1, memory_free=1, features=("sm80",))
    assert "8.9" in str(why_not_fp8(older)) and why_not_fp8(GPU) is None


def test_the_reference_does_what_stands_around_a_product() -> None:
    torch.manual_seed(1)
    x, gain, residual = torch.randn(3, 32), torch.rand(32), torch.randn(3, 8)
    values, scale = to_eight_bits(torch.randn(16, 32))
    wide = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain.double()
    gate, up = (wide @ (values.double() * scale.double()[:, None]).t()).chunk(2, -1)
    want = gate / (1 + torch.exp(-gate)) * up + residual.double()
    got = project_eight(x, values, scale, None, residual, gain, 1e-5, "silu")
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
