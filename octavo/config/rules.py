"""Checks that need two settings, or a setting and the model. Each names the remedy.

Limits of a single setting stand with its option; what memory forbids is said by the memory plan.
"""

from __future__ import annotations

from octavo.config.engine import EngineConfig
from octavo.core.errors import UserError
from octavo.core.facts import ModelFacts


def check(config: EngineConfig, facts: ModelFacts) -> None:
    """Raises UserError for the first rule that is broken."""
    for rule in RULES:
        rule(config, facts)


def context_within_model(config: EngineConfig, facts: ModelFacts) -> None:
    asked = config.model.max_model_len
    if asked is not None and asked > facts.max_position:
        raise UserError(
            f"max_model_len {asked} is longer than the {facts.max_position} positions the model was made for",
            hint=f"use --max-model-len {facts.max_position} or less, or extend the model's positions with "
            "--hf-overrides (rope_scaling, max_position_embeddings)",
            field="max_model_len",
        )


def one_cache_size(config: EngineConfig, facts: ModelFacts) -> None:
    if config.cache.kv_cache_memory_bytes is not None and config.cache.num_gpu_blocks_override is not None:
        raise UserError(
            "kv_cache_memory_bytes and num_gpu_blocks_override both fix the size of the KV cache",
            hint="give one of them",
            field="num_gpu_blocks_override",
        )


def whole_prompts_fit_a_step(config: EngineConfig, facts: ModelFacts) -> None:
    budget = config.schedule.max_num_batched_tokens
    length = config.model.max_model_len or facts.max_position
    if facts.atomic and budget is not None and budget < length:
        raise UserError(
            f"this model reads a prompt in one step, but max_num_batched_tokens is {budget}",
            hint=f"use --max-num-batched-tokens {length} or more, or --max-model-len {budget} or less",
            field="max_num_batched_tokens",
        )


def threshold_within_budget(config: EngineConfig, facts: ModelFacts) -> None:
    budget, threshold = config.schedule.max_num_batched_tokens, config.schedule.long_prefill_token_threshold
    if budget is not None and threshold > budget:
        raise UserError(
            f"long_prefill_token_threshold {threshold} is above max_num_batched_tokens {budget}",
            hint=f"use --long-prefill-token-threshold {budget} or less, or 0 for no threshold",
            field="long_prefill_token_threshold",
        )


RULES = (context_within_model, one_cache_size, whole_prompts_fit_a_step, threshold_within_budget)
