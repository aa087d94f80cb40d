"""A tiny model that is sound: as a Hugging Face folder and as a GGUF file. The tables break copies of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.cpu.checkpoint.test_gguf import NAMES
from tests.cpu.runner.tiny import checkpoint_tensors
from tests.server.fake_engine import CONTEXT, MERGES, TEMPLATE, make_tokenizer
from tests.unit.checkpoint.write_gguf import Raw, gguf_bytes

VOCAB = 264
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "eos_token_id": VOCAB - 1,
}
SETTINGS: dict[str, Any] = {"dtype": "float32", "kv_cache_memory_bytes": "4MiB", "max_num_seqs": 4}
_NORMAL, _CONTROL = 1, 3


def weights() -> dict[str, torch.Tensor]:
    return checkpoint_tensors(7, vocab_size=VOCAB)


def write_folder(folder: Path) -> None:
    """config.json, weights, tokenizer and generation defaults."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.7}))
    (folder / "tokenizer.json").write_text(make_tokenizer()._backend.to_str())
    words = {"eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(words))
    save_file(weights(), folder / "model.safetensors")


def gguf_metadata(**changes: Any) -> dict[str, Any]:
    """Keys as they stand in the file; None leaves one out."""
    tokens = [make_tokenizer().token(id) for id in range(VOCAB)]
    found = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.context_length": CONTEXT,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 48,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [_NORMAL] * (VOCAB - 2) + [_CONTROL] * 2,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in MERGES],
        "tokenizer.ggml.eos_token_id": VOCAB - 1,
        "tokenizer.chat_template": TEMPLATE,
        **changes,
    }
    return {key: value for key, value in found.items() if value is not None}


def gguf_tensors() -> dict[str, Raw]:
    """The weights under GGUF's names, as F32."""
    found = {}
    for name, weight in weights().items():
        stem, _, leaf = name.rpartition(".")
        if stem.startswith("model.layers."):
            _, _, layer, part = stem.split(".", 3)
            stem = f"blk.{layer}.{NAMES[part]}"
        else:
            stem = NAMES[stem]
        found[f"{stem}.{leaf}"] = Raw(0, tuple(weight.shape), weight.numpy().tobytes())
    return found


def write_gguf(path: Path, tensors: Mapping[str, Raw] | None = None, **changes: Any) -> None:
    path.write_bytes(gguf_bytes(gguf_metadata(**changes), gguf_tensors() if tensors is None else tensors))
