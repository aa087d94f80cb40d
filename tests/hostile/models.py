"""Two sound little models to break: a GGUF file with every block format, and a safetensors folder."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from octavo.core.facts import ModelFiles
from tests.cpu.models.driver import files
from tests.cpu.native.tools import make
from tests.unit.checkpoint.write_gguf import Raw, gguf_bytes

HIDDEN, INNER, HEADS, KV, HEAD, VOCAB, LAYERS = 256, 512, 4, 2, 64, 40, 2
KINDS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 8, "Q4_K": 12, "Q6_K": 14, "BF16": 30}
SHAPES = {
    "attn_q": (HEADS * HEAD, HIDDEN), "attn_k": (KV * HEAD, HIDDEN), "attn_v": (KV * HEAD, HIDDEN),
    "attn_output": (HIDDEN, HEADS * HEAD), "ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN),
    "ffn_down": (HIDDEN, INNER),
}  # fmt: skip
FORMATS = (
    ("Q4_K", "Q6_K", "Q8_0", "Q4_0", "Q4_1", "Q4_1", "Q6_K"),
    ("F16", "BF16", "F32", "Q4_K", "Q8_0", "Q4_0", "Q4_1"),
)


@dataclass
class GGUF:
    """What gguf_bytes takes."""

    metadata: dict[str, Any]
    tensors: dict[str, Raw]
    options: dict[str, Any]

    def copy(self) -> GGUF:
        return GGUF(dict(self.metadata), dict(self.tensors), dict(self.options))

    def data(self) -> bytes:
        return gguf_bytes(self.metadata, self.tensors, **self.options)


def _matrix(format: str, rows: int, k: int) -> Raw:
    if format == "F16":
        stored = make("F32", rows, k).stored.half()
    else:
        stored = make(format, rows, k).stored
    return Raw(KINDS[format], (rows, k), stored.contiguous().view(torch.uint8).numpy().tobytes())


def sound_gguf() -> GGUF:
    tensors = {"token_embd.weight": _matrix("Q8_0", VOCAB, HIDDEN)}
    ones = torch.ones(HIDDEN).numpy().tobytes()
    for layer, formats in enumerate(FORMATS):
        for (name, shape), format in zip(SHAPES.items(), formats, strict=True):
            tensors[f"blk.{layer}.{name}.weight"] = _matrix(format, *shape)
        for norm in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{layer}.{norm}.weight"] = Raw(0, (HIDDEN,), ones)
    tensors["output_norm.weight"] = Raw(0, (HIDDEN,), ones)
    tensors["output.weight"] = _matrix("Q6_K", VOCAB, HIDDEN)
    facts = {
        "block_count": LAYERS, "context_length": 128, "embedding_length": HIDDEN, "feed_forward_length": INNER,
        "attention.head_count": HEADS, "attention.head_count_kv": KV,
        "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 10000.0, "rope.dimension_count": HEAD,
    }  # fmt: skip
    metadata: dict[str, Any] = {"general.architecture": "llama", "general.alignment": 32}
    metadata |= {f"llama.{key}": value for key, value in facts.items()}
    metadata |= {"tokenizer.ggml.tokens": [f"t{i}" for i in range(VOCAB)], "tokenizer.ggml.eos_token_id": 2}
    return GGUF(metadata, tensors, {})


@dataclass
class Safetensors:
    """config.json, and a file in its two parts."""

    config: dict[str, Any]
    header: dict[str, Any]
    body: bytes

    def copy(self) -> Safetensors:
        return Safetensors(copy.deepcopy(self.config), copy.deepcopy(self.header), self.body)

    def data(self) -> bytes:
        header = json.dumps(self.header).encode()
        return len(header).to_bytes(8, "little") + header + self.body


def sound_safetensors() -> Safetensors:
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    tensors = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        path = f"model.layers.{layer}"
        for name, shape in zip(names, SHAPES.values(), strict=True):
            tensors[f"{path}.{'mlp' if shape in _MLP else 'self_attn'}.{name}.weight"] = shape
        tensors |= {f"{path}.{norm}.weight": (HIDDEN,) for norm in ("input_layernorm", "post_attention_layernorm")}
    chance = torch.Generator().manual_seed(1)
    kinds = (torch.bfloat16, torch.float32, torch.float16)
    made = {
        name: (torch.randn(shape, generator=chance) * 0.05).to(kinds[i % 3])
        for i, (name, shape) in enumerate(tensors.items())
    }
    data = save(made)
    length = int.from_bytes(data[:8], "little")
    config = {
        "architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_attention_heads": HEADS, "num_key_value_heads": KV, "head_dim": HEAD, "num_hidden_layers": LAYERS,
        "vocab_size": VOCAB, "rms_norm_eps": 1e-5, "max_position_embeddings": 128, "hidden_act": "silu",
        "tie_word_embeddings": True, "rope_theta": 10000.0, "torch_dtype": "bfloat16",
    }  # fmt: skip
    return Safetensors(config, json.loads(data[8 : 8 + length]), data[8 + length :])


_MLP = (SHAPES["ffn_gate"], SHAPES["ffn_down"])


def write_gguf(folder: Path, data: bytes) -> ModelFiles:
    path = folder / "m.gguf"
    path.write_bytes(data)
    return files(str(folder), [str(path)], "gguf")


def write_safetensors(folder: Path, config: bytes, data: bytes) -> ModelFiles:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    (folder / "config.json").write_bytes(config)
    return files(str(folder), [str(path)], config=str(folder / "config.json"))
