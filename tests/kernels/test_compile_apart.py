"""The process that compiles, for a device that need not be here."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime.jit import serialize_specialization_data

from octavo.ops.triton.compile_apart import Compiler, Kernel

HOPPER = GPUTarget("cuda", 90, 32)
MODULE = "octavo.ops.triton.norm"


def norm(block: int) -> Kernel:
    """As Triton notes a launch of norm_kernel."""
    kinds = ("*bf16", "*bf16", "*bf16", "i32", "fp32", "constexpr", "constexpr")
    signature = dict(zip(("x", "gain", "y", "d", "eps", "BLOCK", "EARLY"), kinds, strict=True))
    aligned = {(at,): [["tt.divisibility", 16]] for at in range(4)}
    options = CUDABackend(HOPPER).parse_options({})
    values = {(5,): block, (6,): False}
    told = (f"{MODULE}.norm_kernel", signature, values, aligned, options, "key", HOPPER)
    taken = len(inspect.signature(serialize_specialization_data).parameters)  # by Triton 3.6 no target
    return Kernel(MODULE, "norm_kernel", serialize_specialization_data(*told[:taken]))


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    made = Compiler(HOPPER)
    yield made
    made.end()


def test_a_kernel_lands_in_the_cache_on_disk(compiler: Compiler, tmp_path: Path) -> None:
    compiler.make(norm(1024))
    compiler.make(norm(1024))
    assert len(list(tmp_path.rglob("norm_kernel.cubin"))) == 1
    compiler.make(norm(2048))
    assert len(list(tmp_path.rglob("norm_kernel.cubin"))) == 2


def test_what_cannot_be_compiled_is_told_and_the_next_is(compiler: Compiler, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no_kernel"):
        compiler.make(norm(1024)._replace(name="no_kernel"))
    compiler.make(norm(1024))
    assert list(tmp_path.rglob("norm_kernel.cubin"))


def test_an_ended_process_is_told(compiler: Compiler) -> None:
    compiler.end()
    compiler.end()
    with pytest.raises(RuntimeError, match="has ended"):
        compiler.make(norm(1024))
