"""What an NVIDIA GPU offers this process."""

from __future__ import annotations

import torch

from octavo.core.facts import Platform


def cuda_facts() -> Platform | None:
    """Facts of the current device; None where torch sees no GPU."""
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    major, minor = torch.cuda.get_device_capability()
    return Platform(
        kind="cuda",
        name=torch.cuda.get_device_name(),
        cores=torch.cuda.get_device_properties(0).multi_processor_count,
        memory_total=total,
        memory_free=free,
        memory_held=torch.cuda.memory_allocated(),
        features=(f"sm{major}{minor}",),
        devices=torch.cuda.device_count(),
        torch=str(torch.__version__),
    )


def default_dtype(platform: Platform) -> tuple[str, str]:
    """(dtype, why)"""
    capability = int(platform.features[0].removeprefix("sm"))
    if capability >= 80:
        return "bfloat16", "the GPU multiplies it natively"
    return "float16", "the GPU has no native bfloat16 arithmetic"


def why_not(dtype: str, platform: Platform) -> str | None:
    """None where the GPU computes in this dtype, otherwise the reason."""
    if dtype == "bfloat16" and default_dtype(platform)[0] != dtype:
        return f"bfloat16 needs compute capability 8.0, {platform.name} has {platform.features[0]}"
    return None
