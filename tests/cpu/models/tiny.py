"""Tiny random checkpoints of every family, saved by transformers, with its own logits beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

SHAPE: dict[str, Any] = dict(
    vocab_size=199,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
    initializer_range=0.15,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=500000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)

CONFIGS: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "llama-tied-biased": lambda: LlamaConfig(
        **SHAPE, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=16
    ),
    "llama3-rope": lambda: LlamaConfig(**SHAPE, rope_parameters=dict(LLAMA3)),
    "llama-linear-rope": lambda: LlamaConfig(
        **SHAPE, rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=10000.0)
    ),
    "llama-yarn": lambda: LlamaConfig(
        **SHAPE,
        rope_parameters=dict(
            rope_type="yarn", factor=4.0, rope_theta=10000.0, original_max_position_embeddings=64
        ),
    ),
    "mistral-window": lambda: MistralConfig(**SHAPE, sliding_window=9),
    "mistral-full": lambda: MistralConfig(**SHAPE, sliding_window=None),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen2-upper-window": lambda: Qwen2Config(
        **SHAPE, use_sliding_window=True, sliding_window=7, max_window_layers=1
    ),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=True),
}


def save(name: str, folder: Path, *, shard: bool = False, dtype: torch.dtype = torch.float32) -> Any:
    """Writes config.json and safetensors; returns the transformers model."""
    torch.manual_seed(sum(name.encode()))
    model = AutoModelForCausalLM.from_config(CONFIGS[name](), attn_implementation="eager").to(dtype).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if value.dim() == 1:  # biases start at zero and norms at one: neither would test anything
                value.add_(torch.randn_like(value) * 0.2)
            assert key
    model.save_pretrained(folder, max_shard_size="40KB" if shard else "1GB")
    return model


@torch.inference_mode()
def reference(model: Any, tokens: list[int]) -> Tensor:
    """Logits [n, vocab] of a whole prompt, float32."""
    return model(input_ids=torch.tensor([tokens])).logits[0].float()
