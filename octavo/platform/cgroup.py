"""Limits a container puts on memory and CPU time, from cgroup v2 or v1. Linux only, torch-free.

Every ancestor's limit holds, so the tightest one counts. Where nothing is mounted there is
no limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_UNLIMITED = 1 << 60  # cgroup v1 writes a huge number for "none"


class Limits(NamedTuple):
    """Bytes and CPUs; None where there is no limit. `memory_used` excludes reclaimable cache."""

    memory: int | None = None
    memory_used: int = 0
    cpus: float | None = None


def read_limits(root: Path = Path("/")) -> Limits:
    """The tightest limits of this process's group and its ancestors, below `root`."""
    memory: int | None = None
    used = 0
    cpus: float | None = None
    for folder in _folders(root):
        limit = _first(folder, ("memory.max", "memory.limit_in_bytes"))
        if limit is not None and limit < _UNLIMITED and (memory is None or limit < memory):
            memory, used = limit, _used(folder)
        if (quota := _quota(folder)) is not None:
            cpus = quota if cpus is None else min(cpus, quota)
    return Limits(memory, used, cpus)


def _folders(root: Path) -> Iterator[Path]:
    """Every group folder that may hold limits, the process's own first."""
    mount = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for base in [mount, *(mount / name for name in ("memory", "cpu", "cpu,cpuacct") if controllers)]:
            here = base / path.lstrip("/")
            yield from (p for p in (here, *here.parents) if p == base or base in p.parents)


def _used(folder: Path) -> int:
    used = _first(folder, ("memory.current", "memory.usage_in_bytes")) or 0
    for line in _text(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and value.isdecimal():
            return max(0, used - int(value))
    return used


def _quota(folder: Path) -> float | None:
    words = _text(folder / "cpu.max").split()
    if not words:
        words = [_text(folder / "cpu.cfs_quota_us").strip(), _text(folder / "cpu.cfs_period_us").strip()]
    if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal() and int(words[1]) > 0:
        return int(words[0]) / int(words[1])
    return None


def _first(folder: Path, names: tuple[str, ...]) -> int | None:
    for name in names:
        if (text := _text(folder / name).strip()).isdecimal():
            return int(text)
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
