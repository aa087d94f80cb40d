"""Limits of containers and features of CPUs, read from trees made by hand."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from octavo.core.facts import Platform
from octavo.platform import cpu, cuda
from octavo.platform.cgroup import Limits, read_limits
from octavo.platform.detect import default_dtype, detect

GIB = 1 << 30


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_no_cgroup(tmp_path: Path) -> None:
    assert read_limits(tmp_path) == Limits(None, 0, None)


def test_v2_takes_the_tightest_ancestor(tmp_path: Path) -> None:
    root = tree(tmp_path, {
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
        "sys/fs/cgroup/a/memory.max": f"{2 * GIB}\n",
        "sys/fs/cgroup/a/memory.current": f"{GIB}\n",
        "sys/fs/cgroup/a/memory.stat": f"anon 5\ninactive_file {GIB // 4}\n",
        "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/memory.max": f"{8 * GIB}\n",
        "sys/fs/cgroup/cpu.max": "800000 100000\n",
    })  # fmt: skip
    assert read_limits(root) == Limits(2 * GIB, GIB - GIB // 4, 1.5)


def test_v2_inside_a_container_that_sees_its_own_group_as_root(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/self/cgroup": "0::/../outside\n", "sys/fs/cgroup/memory.max": f"{GIB}\n"})
    assert read_limits(root).memory == GIB


def test_v1(tmp_path: Path) -> None:
    root = tree(tmp_path, {
        "proc/self/cgroup": "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n",
        "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": f"{3 * GIB}\n",
        "sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes": f"{GIB}\n",
        "sys/fs/cgroup/memory/docker/x/memory.stat": "total_inactive_file 1000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "50000\n",
        "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    })  # fmt: skip
    assert read_limits(root) == Limits(3 * GIB, GIB - 1000, 0.5)


def test_facts_follow_the_limits(tmp_path: Path) -> None:
    root = tree(tmp_path, {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": f"{64 << 20}\n",
        "sys/fs/cgroup/memory.current": f"{16 << 20}\n",
        "sys/fs/cgroup/cpu.max": "10000 100000\n",
        "proc/cpuinfo": "model name\t: Fast CPU\nflags\t: fpu avx2 avx512_bf16\n\nmodel name : Other\nflags : x\n",
    })  # fmt: skip
    facts = cpu.cpu_facts(root)
    assert (facts.kind, facts.name, facts.cores) == ("cpu", "Fast CPU", 1)
    assert facts.memory_total == 64 << 20 and facts.memory_free == 48 << 20
    assert facts.features == ("avx2", "avx512_bf16")
    assert cpu.default_dtype(facts) == ("bfloat16", "the CPU has avx512_bf16")


def test_this_machine() -> None:
    facts = detect("cpu")
    assert facts.kind == "cpu" and facts.cores >= 1 and facts.name
    assert 0 < facts.memory_free <= facts.memory_total <= psutil.virtual_memory().total
    assert default_dtype(facts)[0] in ("float32", "bfloat16")
    assert facts.torch == torch.__version__


def test_no_native_bfloat16(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/cpuinfo": "flags : avx2 fma\n"})
    dtype, why = cpu.default_dtype(cpu.cpu_facts(root))
    assert dtype == "float32" and "no native bfloat16" in why


@pytest.mark.parametrize(
    ("feature", "dtype"),
    [
        ("sm70", "float16"),
        ("sm75", "float16"),
        ("sm80", "bfloat16"),
        ("sm90", "bfloat16"),
        ("sm120", "bfloat16"),
    ],
)
def test_a_gpus_dtype_follows_its_capability(feature: str, dtype: str) -> None:
    gpu = Platform(kind="cuda", name="A GPU", cores=1, memory_total=1, memory_free=1, features=(feature,))
    assert default_dtype(gpu)[0] == cuda.default_dtype(gpu)[0] == dtype
    refused = cuda.why_not("bfloat16", gpu)
    assert refused is None if dtype == "bfloat16" else "8.0" in refused and feature in refused
    assert cuda.why_not("float16", gpu) is None and cuda.why_not("float32", gpu) is None


@pytest.mark.parametrize(("quota", "cores"), [(None, None), (0.1, 1), (1e9, None)])
def test_cores(quota: float | None, cores: int | None) -> None:
    assert cpu.usable_cores(quota) == (cores or cpu.usable_cores(None))


def test_threads_follow_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert cpu.use_threads(cpu.cpu_facts(tmp_path)) == (1, "OMP_NUM_THREADS")
        assert torch.get_num_threads() == 1
        assert cpu.use_threads(cpu.cpu_facts(tmp_path), 3)[0] == 3 == torch.get_num_threads()
        monkeypatch.setenv("OMP_NUM_THREADS", "5000")
        assert cpu.use_threads(cpu.cpu_facts(tmp_path))[0] == cpu.usable_cores(None)
        monkeypatch.setenv("OMP_NUM_THREADS", "many")
        assert cpu.use_threads(cpu.cpu_facts(tmp_path))[0] == cpu.usable_cores(None)
    finally:
        torch.set_num_threads(before)
