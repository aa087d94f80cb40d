"""Tiny random checkpoints with heads as large as real ones, and what transformers says of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

VOCAB = 1009  # no multiple of anything
SHAPE: dict[str, Any] = dict(
    vocab_size=VOCAB, hidden_size=256, intermediate_size=336, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-5, initializer_range=0.12,
    bos_token_id=1, eos_token_id=2, pad_token_id=0,
)  # fmt: skip
LLAMA3 = dict(
    rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=64,
)  # fmt: skip
CONFIGS: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**SHAPE, rope_parameters=dict(LLAMA3)),
    "llama-many-heads": lambda: LlamaConfig(**{**SHAPE, "num_key_value_heads": 4}, attention_bias=True),
    "llama-one-kv-head": lambda: LlamaConfig(**{**SHAPE, "num_key_value_heads": 1}, head_dim=128),
    "mistral-window": lambda: MistralConfig(**SHAPE, sliding_window=40),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=128, tie_word_embeddings=True),
}


def save(name: str, folder: Path, spread: float | None = None) -> Any:
    """Writes config.json and safetensors; returns the transformers model, float32, on the CPU. `spread`: of
    the weights. As they are by default attention picks single tokens, so that a wrong one shows; with
    0.03 a rounding error stays one."""
    torch.manual_seed(sum(name.encode()))
    config = CONFIGS[name]()
    config.initializer_range = spread or config.initializer_range
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for value in model.parameters():
            if value.dim() == 1:  # norms at one and biases at zero would test nothing
                value.add_(torch.randn_like(value) * 0.2)
    model.save_pretrained(folder)
    return model


@torch.inference_mode()
def logits_of(model: Any, tokens: list[int]) -> Tensor:
    """[n, vocab] of a whole sequence."""
    return model(input_ids=torch.tensor([tokens])).logits[0].float()


def greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(logits_of(model, tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    """From very short to longer than several pages and tiles."""
    r = random.Random(seed)
    lengths = [1, 2, 15, 16, 17, 64, 129, 300]
    return [[r.randrange(3, VOCAB) for _ in range(lengths[i % len(lengths)])] for i in range(count)]
