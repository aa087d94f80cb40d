"""What every result carries, so that it can be read and run again later. Measures nothing itself."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from octavo import __version__
from octavo.config.flags import Parser

_PACKAGES = ("torch", "tokenizers", "numpy", "transformers")
_PERCENTILES = (50, 90, 99)


def add_flags(parser: Parser) -> None:
    parser.add_argument("--output-json", metavar="FILE", help="write the result here (default: print it)")


def provenance() -> dict[str, Any]:
    """Octavo's version and commit, the command, versions of what matters, and the machine."""
    return {
        "octavo": __version__,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "command": shlex.join(["octavo", *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "device": device(),
    }


def device() -> str:
    """The processor's name and how many cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return f"{_processor()}, {cores} cores"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def emit(kind: str, result: dict[str, Any], target: str | None) -> None:
    """Writes one JSON object to `target` or to standard output."""
    text = json.dumps({"benchmark": kind, **result, **provenance()}, indent=1)
    if target is None:
        print(text)
        return
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    print(f"written to {path}", file=sys.stderr)


def spread(values: Sequence[float], scale: float = 1.0) -> dict[str, float]:
    """Mean, smallest, largest and percentiles of a sample, times `scale`; {} for none."""
    if not values:
        return {}
    ordered = sorted(values)
    found = {"mean": sum(ordered) / len(ordered), "min": ordered[0], "max": ordered[-1]}
    found.update({f"p{share}": percentile(ordered, share) for share in _PERCENTILES})
    return {name: round(value * scale, 6) for name, value in found.items()}


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of a sorted sample, interpolated between its neighbours; `share` in [0, 100]."""
    at = (len(ordered) - 1) * share / 100
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def _git(*words: str) -> str | None:
    """git's answer for the source tree we run from; None when there is none."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    answer = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
