"""Threads, instructions and weights on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.config.option import option


@dataclass(frozen=True, kw_only=True)
class CPUConfig:
    cpu_threads: int | None = option(
        None,
        "threads that compute on a CPU; none: OMP_NUM_THREADS, or the cores this process may use "
        "(affinity, cgroup quota)",
        low=1,
        high=1024,
    )
    cpu_pin: bool = option(
        False,
        "keep each of the kernels' threads, but the one that runs Python, on one core; not for two engines "
        "on the same cores",
    )
    cpu_level: str | None = option(
        None,
        "instructions the CPU kernels use (portable, avx2, avx512, ...), to compare or to rule out one; "
        "none: the best this CPU has",
    )
    weight_pages: str = option(
        "auto",
        "memory of a CPU's weights; shared: mapped from the cache of packed weights, one copy for all "
        "processes; private: a copy in huge pages; auto: shared where the mapping has huge pages",
        choices=("auto", "shared", "private"),
    )
    weight_cache_bytes: int = option(
        8 << 30,
        "most bytes of packed weights kept on disk, so that a CPU starts without packing again; 0: none",
        low=0,
        kind="size",
    )
