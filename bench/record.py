"""What every result carries: where it came from, so that it can be run again."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "triton", "transformers", "tokenizers", "numpy", "vllm")


def provenance(command: list[str] | None = None) -> dict[str, Any]:
    """Commit, dirty flag, command, versions and device of this run. A tree that was copied without its
    history takes the commit from BENCH_COMMIT ("-dirty" behind it)."""
    commit, _, dirt = os.environ.get("BENCH_COMMIT", "").partition("-")
    return {
        "commit": commit or _git("rev-parse", "HEAD"),
        "dirty": bool(dirt if commit else _git("status", "--porcelain", "--untracked-files=no")),
        "command": command or ["python", *_script(Path(sys.argv[0])), *sys.argv[1:]],
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "device": _device(),
        "cuda": _cuda(),
    }


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, smallest and largest of repeated timings."""
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def _script(path: Path) -> list[str]:
    """As one types it at the root: the files of bench/ are modules of it."""
    name = os.path.relpath(path, ROOT)
    return ["-m", name.removesuffix(".py").replace("/", ".")] if name.startswith("bench/") else [name]


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device() -> str:
    try:
        import torch
    except ImportError:
        return _cpu()
    return torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu()


def _cuda() -> dict[str, str] | None:
    """Versions of the toolkit torch is built with and of the driver; None without a GPU."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(words, capture_output=True, text=True).stdout.split()
    except FileNotFoundError:
        said = []
    return {"toolkit": str(torch.version.cuda), "driver": said[0] if said else "unknown"}


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.split(':', 1)[1].strip()}, {len(os.sched_getaffinity(0))} cores"
    return platform.processor()
