"""A GGUF file is the same model as the transformers checkpoint it was made from."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from octavo.attention.cpu import CPUAttention
from octavo.checkpoint.gguf import GGUFCheckpoint
from octavo.core.errors import ArtefactError, EngineError, Unsupported
from octavo.models.facts import model_facts
from tests.cpu.models.driver import Driver, files, load, relative
from tests.cpu.models.tiny import LLAMA3, SHAPE, reference, save
from tests.unit.checkpoint.write_gguf import ARRAY, I32, Raw, Typed, gguf_bytes

HEADS, KV = SHAPE["num_attention_heads"], SHAPE["num_key_value_heads"]
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def metadata(arch: str, **more: Any) -> dict[str, Any]:
    facts = {
        "block_count": SHAPE["num_hidden_layers"],
        "context_length": SHAPE["max_position_embeddings"],
        "embedding_length": SHAPE["hidden_size"],
        "feed_forward_length": SHAPE["intermediate_size"],
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
        **more,
    }
    return {
        "general.architecture": arch,
        **{f"{arch}.{key}": value for key, value in facts.items() if value is not None},
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.eot_token_id": 5,
        "tokenizer.ggml.bos_token_id": 1,
    }


def theirs_to_gguf(theirs: Any, arch: str, kind: int = 0) -> dict[str, Raw]:
    """As the format's converter does: its names, and for llama the halves of each head interleaved."""
    tensors = {}
    for name, weight in theirs.state_dict().items():
        if name == "lm_head.weight" and theirs.config.tie_word_embeddings:
            continue
        stem, _, leaf = name.rpartition(".")
        if stem.startswith("model.layers."):
            _, _, layer, part = stem.split(".", 3)
            new = f"blk.{layer}.{NAMES[part]}"
        else:
            new = NAMES[stem]
        if arch == "llama" and new.endswith(("attn_q", "attn_k")):
            heads = HEADS if new.endswith("attn_q") else KV
            weight = weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
        dtype = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}[kind if weight.dim() > 1 else 0]
        data = weight.to(dtype).contiguous().view(torch.uint8).numpy().tobytes()
        tensors[f"{new}.{leaf}"] = Raw(kind if weight.dim() > 1 else 0, tuple(weight.shape), data)
    return tensors


def prompt(length: int) -> list[int]:
    return random.Random(3).choices(range(3, SHAPE["vocab_size"]), k=length)


def check(path: Path, theirs: Any, close: float = 1e-4) -> GGUFCheckpoint:
    backend = CPUAttention()
    driver = Driver(load(files(str(path.parent), [str(path)], "gguf"), backend), backend)
    tokens = prompt(40)
    got = torch.cat([*driver.step([("a", tokens[:25])]), *driver.step([("a", tokens[25:])])])
    assert relative(got, reference(theirs, tokens)) < close
    return GGUFCheckpoint(str(path))


@pytest.mark.parametrize(
    ("name", "arch", "more"),
    [
        ("llama", "llama", {}),
        ("llama-tied-biased", "llama", {"attention.key_length": 16, "attention.value_length": 16}),
        ("mistral-window", "llama", {"attention.sliding_window": 9}),
        ("qwen2", "qwen2", {}),
        ("qwen3", "qwen3", {"attention.key_length": 16, "attention.value_length": 16}),
        ("llama-linear-rope", "llama", {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}),
        (
            "llama-yarn",
            "llama",
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.original_context_length": 64,
            },
        ),
    ],
)
def test_every_family(name: str, arch: str, more: dict[str, Any], tmp_path: Path) -> None:
    theirs = save(name, tmp_path)
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(metadata(arch, **more), theirs_to_gguf(theirs, arch)))
    facts = model_facts((opened := check(path, theirs)).hf, opened.index)
    assert facts.eos_token_ids == (2, 5) and facts.bos_token_id == 1
    assert facts.vocab_size == SHAPE["vocab_size"] and facts.num_parameters == sum(
        p.numel() for p in theirs.parameters()
    )


@pytest.mark.parametrize(("kind", "dtype"), [(1, "float16"), (30, "bfloat16")])
def test_half_precision_tensors(kind: int, dtype: str, tmp_path: Path) -> None:
    theirs = save("llama", tmp_path)
    for weight in theirs.parameters():
        if weight.dim() > 1:
            weight.data = weight.data.to({1: torch.float16, 30: torch.bfloat16}[kind]).float()
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(metadata("llama"), theirs_to_gguf(theirs, "llama", kind)))
    opened = check(path, theirs)
    assert model_facts(opened.hf, opened.index).dtype == dtype


def test_rope_factors(tmp_path: Path) -> None:
    """Llama 3 files bring the scaled frequencies as divisors in a tensor of their own."""
    theirs = save("llama3-rope", tmp_path)
    dim = SHAPE["hidden_size"] // HEADS
    base = LLAMA3["rope_theta"] ** -(torch.arange(0, dim, 2).float() / dim)
    factors = base / theirs.model.rotary_emb.inv_freq
    assert not torch.allclose(factors, torch.ones(dim // 2))
    tensors = theirs_to_gguf(theirs, "llama")
    tensors["rope_freqs.weight"] = Raw(0, (dim // 2,), factors.numpy().tobytes())
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(metadata("llama", **{"rope.freq_base": LLAMA3["rope_theta"]}), tensors))
    check(path, theirs)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_quantized_rows_of_heads_go_home(kind: str, tmp_path: Path) -> None:
    """read() undoes the interleaving on blocks and equals the gguf package's numbers."""
    number = gguf.GGMLQuantizationType[kind]
    weight = np.random.default_rng(1).standard_normal((48, 96)).astype(np.float32)
    raw = gguf.quants.quantize(weight, number)
    tensors = {
        "token_embd.weight": Raw(0, (9, 4), bytes(144)),
        "blk.0.attn_q.weight": Raw(int(number), (48, 96), raw.tobytes()),
        "blk.0.attn_v.weight": Raw(int(number), (48, 96), raw.tobytes()),
    }
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(metadata("llama"), tensors))
    opened = GGUFCheckpoint(str(path))
    wanted = torch.from_numpy(gguf.quants.dequantize(raw, number))
    got = torch.empty(48, 96)
    opened.read("model.layers.0.self_attn.v_proj.weight", got)
    assert torch.equal(got, wanted)
    opened.read("model.layers.0.self_attn.q_proj.weight", got)
    assert torch.equal(got, wanted.view(HEADS, 4, 2, 96).transpose(1, 2).reshape(48, 96))
    half = torch.empty(48, 96, dtype=torch.bfloat16)
    opened.read("model.layers.0.self_attn.v_proj.weight", half)
    assert torch.equal(half, wanted.bfloat16())


def embedding() -> dict[str, Raw]:
    return {"token_embd.weight": Raw(0, (9, 4), bytes(144))}


def test_per_layer_metadata_of_one_value(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    many = Typed(ARRAY, (I32, [KV] * 3))
    path.write_bytes(gguf_bytes(metadata("llama", **{"attention.head_count_kv": many}), embedding()))
    assert GGUFCheckpoint(str(path)).hf.integer("num_key_value_heads") == KV


def test_mutated_files_load_or_are_refused(tmp_path: Path) -> None:
    """500 mutations of a whole tiny model: every one loads (other numbers) or raises a typed error."""
    theirs = save("llama", tmp_path)
    data = gguf_bytes(metadata("llama"), theirs_to_gguf(theirs, "llama"))
    end = data.rindex(b"ffn_norm.weight") + 200  # metadata and tensor table; the rest is numbers
    path = tmp_path / "m.gguf"
    chance = random.Random(11)
    refused = 0
    for _ in range(500):
        mutant = bytearray(data)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(end)
            mutant[at] = chance.choice((0, 1, 255, mutant[at] ^ 1 << chance.randrange(8)))
        path.write_bytes(mutant)
        try:
            load(files(str(tmp_path), [str(path)], "gguf"), CPUAttention())
        except EngineError as error:
            assert isinstance(error, ArtefactError | Unsupported) and str(path) in error.message
            refused += 1
    assert 250 < refused < 500
