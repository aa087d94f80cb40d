"""Finds the device this process will compute on."""

from __future__ import annotations

from octavo.core.facts import Platform
from octavo.platform import cpu, cuda


def detect(kind: str = "auto") -> Platform:
    """The GPU where there is one (and "cpu" was not asked for), else the CPU."""
    found = None if kind == "cpu" else cuda.cuda_facts()
    return found or cpu.cpu_facts()


def default_dtype(platform: Platform) -> tuple[str, str]:
    """(dtype, why) for `--dtype auto`."""
    return cuda.default_dtype(platform) if platform.kind == "cuda" else cpu.default_dtype(platform)
