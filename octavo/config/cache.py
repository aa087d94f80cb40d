"""The paged KV cache."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.config.option import option


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    block_size: int = option(16, "tokens in a KV block", low=1, high=256)
    gpu_memory_utilization: float = option(
        0.92,
        "share of the device's memory Octavo may use, weights included (of RAM or cgroup limit on a CPU)",
        low=0.01,
        high=1.0,
    )
    kv_cache_memory_bytes: int | None = option(
        None, "exact size of the KV cache; overrides gpu_memory_utilization", low=1, kind="size"
    )
    num_gpu_blocks_override: int | None = option(None, "exact number of KV blocks", low=1)
    kv_cache_dtype: str = option(
        "auto",
        "dtype of the KV cache; auto: as the model; half the memory: fp8 (e4m3) on GPUs, int8 on CPUs",
        choices=("auto", "float32", "bfloat16", "float16", "fp8", "fp8_e4m3", "int8"),
    )
    enable_prefix_caching: bool = option(True, "share KV blocks between requests with equal beginnings")
