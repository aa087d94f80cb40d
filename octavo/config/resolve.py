"""resolve(): where every "auto" dies, and leaves a reason.

Needs the settings, the model's facts and the device's; never the model itself. How much
memory the cache gets is decided by the memory plan, from what is resolved here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from octavo.config import rules
from octavo.config.cache import CacheConfig
from octavo.config.cpu import CPUConfig
from octavo.config.engine import EngineConfig
from octavo.core.errors import UserError
from octavo.core.facts import NO_EFFECT, Decision, ModelFacts, Platform

_DTYPES = {"float": "float32", "half": "float16", "fp8": "fp8_e4m3"}
_EIGHT_BITS = {"cuda": "fp8_e4m3", "cpu": "int8"}  # the KV cache in 8 bits, by kind of device
_GPU_ROWS, _GPU_BUDGET = 256, 8192
_CPU_ROWS = 64
_CPU_BUDGETS = ((4, 512), (16, 1024))  # cores up to, tokens
_CPU_BUDGET = 2048


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """What a worker starts from. `max_model_len` may still shrink to fit memory unless `fixed_len`."""

    dtype: str
    kv_dtype: str
    load_format: str
    max_model_len: int
    fixed_len: bool
    max_num_seqs: int
    budget: int
    fixed_budget: bool
    block_size: int
    depth: int
    eager: bool
    cache: CacheConfig


def resolve(
    config: EngineConfig, facts: ModelFacts, platform: Platform, *, weights: str, native: tuple[str, str]
) -> tuple[Resolved, list[Decision]]:
    """`weights` is the format of the files found, `native` the device's dtype and why it is that.

    UserError where settings contradict each other or the model.
    """
    rules.check(config, facts)
    _own_blocks(config, weights)
    choices = _Choices(config, facts, platform)
    dtype = choices.dtype(native)
    resolved = Resolved(
        dtype=dtype,
        kv_dtype=choices.kv_dtype(dtype),
        load_format=choices.load_format(weights),
        max_model_len=choices.max_model_len(),
        fixed_len=config.model.max_model_len is not None,
        max_num_seqs=choices.rows(),
        budget=choices.budget(),
        fixed_budget=config.schedule.max_num_batched_tokens is not None,
        block_size=config.cache.block_size,
        depth=choices.depth(),
        eager=config.model.enforce_eager,
        cache=config.cache,
    )
    return resolved, [*choices.made, *_without_effect(config, platform)]


def _own_blocks(config: EngineConfig, weights: str) -> None:
    if config.model.quantization == "gguf" and weights not in ("gguf", "dummy"):
        raise UserError(
            f"quantization gguf keeps the blocks of a GGUF file, but these weights are {weights}",
            hint="give a .gguf file, or leave quantization out",
            field="quantization",
        )


class _Choices:
    """One method a setting; `made` collects what was decided and why."""

    def __init__(self, config: EngineConfig, facts: ModelFacts, platform: Platform) -> None:
        self._config, self._facts, self._platform = config, facts, platform
        self.made: list[Decision] = []

    def dtype(self, native: tuple[str, str]) -> str:
        asked = self._config.model.dtype
        return _DTYPES.get(asked, asked) if asked != "auto" else self._decide("dtype", *native)

    def kv_dtype(self, dtype: str) -> str:
        asked = self._config.cache.kv_cache_dtype
        if asked == "auto":
            return self._decide("kv_cache_dtype", dtype, "as the model")
        wanted = _DTYPES.get(asked, asked)
        kind = self._platform.kind
        if wanted in _EIGHT_BITS.values() and wanted != _EIGHT_BITS.get(kind):
            raise UserError(
                f"kv_cache_dtype {asked}: there is no such cache on {kind}",
                hint=f"use {_EIGHT_BITS.get(kind, 'auto')} for 8 bits here, or float32, bfloat16, float16",
                field="kv_cache_dtype",
            )
        return wanted

    def load_format(self, found: str) -> str:
        asked = self._config.model.load_format
        return asked if asked != "auto" else self._decide("load_format", found, "the files found")

    def max_model_len(self) -> int:
        asked = self._config.model.max_model_len
        if asked is not None:
            return asked
        return int(
            self._decide("max_model_len", str(self._facts.max_position), "what the model was made for")
        )

    def rows(self) -> int:
        asked = self._config.schedule.max_num_seqs
        if asked is not None:
            return asked
        value = _CPU_ROWS if self._platform.kind == "cpu" else _GPU_ROWS
        return int(self._decide("max_num_seqs", str(value), f"default of a {self._platform.kind} device"))

    def budget(self) -> int:
        asked = self._config.schedule.max_num_batched_tokens
        if asked is not None:
            return asked
        if self._platform.kind != "cpu":
            value, why = _GPU_BUDGET, f"default of a {self._platform.kind} device"
        else:
            cores = self._platform.cores
            value = next((tokens for most, tokens in _CPU_BUDGETS if cores <= most), _CPU_BUDGET)
            why = f"{cores} CPU cores: a step stays short enough for streams to flow"
        if self._facts.atomic and value < self._facts.max_position:
            value, why = self._facts.max_position, "the model reads a prompt in one step"
        return int(self._decide("max_num_batched_tokens", str(value), why))

    def depth(self) -> int:
        if self._config.schedule.async_scheduling:
            return int(self._decide("loop_depth", "2", "async_scheduling: plan a step while one runs"))
        return int(self._decide("loop_depth", "1", "async_scheduling is off"))

    def _decide(self, field: str, value: str, why: str) -> str:
        self.made.append(Decision(field, value, why))
        return value


def _without_effect(config: EngineConfig, platform: Platform) -> Iterator[Decision]:
    """Settings that were given and change nothing here."""
    if config.model.enforce_eager and platform.kind == "cpu":
        yield Decision("enforce_eager", NO_EFFECT, "captured graphs exist on GPUs only")
    if platform.kind != "cpu":
        for field, default in vars(CPUConfig()).items():
            if getattr(config.cpu, field) != default:
                yield Decision(field, NO_EFFECT, f"it is for CPUs, not for {platform.kind}")
    if config.model.trust_remote_code:
        yield Decision("trust_remote_code", NO_EFFECT, "Octavo never runs code of a checkpoint")
    if not config.schedule.enable_chunked_prefill:
        yield Decision(
            "enable_chunked_prefill",
            NO_EFFECT,
            "prompts are always cut to the step's budget; raise max_num_batched_tokens for longer pieces",
        )
    cache = config.cache
    if (cache.kv_cache_memory_bytes or cache.num_gpu_blocks_override) and (
        cache.gpu_memory_utilization != CacheConfig().gpu_memory_utilization
    ):
        yield Decision("gpu_memory_utilization", NO_EFFECT, "the size of the KV cache is given exactly")
