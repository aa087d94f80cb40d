"""What a CPU machine offers this process, and the defaults that follow from it."""

from __future__ import annotations

import math
import os
import platform as python_platform
from pathlib import Path

import psutil
import torch

from octavo.config import env
from octavo.core.facts import Platform
from octavo.platform.cgroup import read_limits

# instruction sets that kernels choose by
_FEATURES = (
    "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx_vnni",
    "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8",
    "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve",
)  # fmt: skip
MOST_THREADS = 1024  # of one engine
_FAST_BF16 = ("amx_bf16", "avx512_bf16", "bf16")


def cpu_facts(root: Path = Path("/")) -> Platform:
    """Reads /proc and the cgroup below `root`; elsewhere than on Linux what Python knows."""
    limits = read_limits(root)
    memory = psutil.virtual_memory()
    total, free = int(memory.total), int(memory.available)
    if limits.memory is not None:
        total = min(total, limits.memory)
        free = min(free, max(0, limits.memory - limits.memory_used))
    name, flags = _cpuinfo(root)
    return Platform(
        kind="cpu",
        name=name or python_platform.processor() or python_platform.machine(),
        cores=usable_cores(limits.cpus),
        memory_total=total,
        memory_free=free,
        features=tuple(feature for feature in _FEATURES if feature in flags),
        torch=str(torch.__version__),
    )


def usable_cores(quota: float | None) -> int:
    """Cores by affinity, rounded up to the CPU-time quota, at least one."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity
        cores = os.cpu_count() or 1
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def cores_of(threads: int) -> tuple[int, ...]:
    """A core for each thread, of those this process may use; none where the system knows no affinity."""
    try:
        cores = sorted(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return ()
    return tuple(cores[t % len(cores)] for t in range(threads))


def default_dtype(platform: Platform) -> tuple[str, str]:
    """(dtype, why): bfloat16 where the CPU multiplies it natively."""
    for feature in _FAST_BF16:
        if feature in platform.features:
            return "bfloat16", f"the CPU has {feature}"
    return "float32", "the CPU has no native bfloat16 arithmetic"


def use_threads(platform: Platform, asked: int | None = None) -> tuple[int, str]:
    """Sets torch's threads as asked, to OMP_NUM_THREADS where that is set, or to the usable cores;
    returns how many, and why."""
    said = env.read("OMP_NUM_THREADS")
    threads, why = platform.cores, "cores this process may use"
    if asked is not None:
        threads, why = asked, "as asked"
    elif said and said.isdecimal() and 0 < int(said) <= MOST_THREADS:
        threads, why = int(said), "OMP_NUM_THREADS"
    if threads > platform.cores:
        why += f"; this process may use {platform.cores} cores, so they get in each other's way"
    torch.set_num_threads(threads)
    return threads, why


def _cpuinfo(root: Path) -> tuple[str, frozenset[str]]:
    """Model name and flags of the first processor listed."""
    name, flags = "", frozenset[str]()
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return name, flags
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and not name:
            name = value.strip()
        elif key.strip() in ("flags", "Features") and not flags:
            flags = frozenset(value.split())
    return name, flags
