"""The products for Hopper against plain torch in float64: how they are cut anywhere, themselves on a GPU."""

from __future__ import annotations

import sys
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from octavo.ops.cuda import matmul, program
from octavo.ops.cuda.cut import GATED_SHARED, SHARED, WIDEST, Skinny, cut_skinny, fills
from octavo.ops.cuda.source import source
from octavo.ops.matmul import head_logits, linear, project
from octavo.ops.triton import attach as _attach  # noqa: F401

ROUNDING = {torch.float16: 1e-3, torch.bfloat16: 8e-3}
ROUNDING_ALL = ROUNDING | {torch.float16: 2e-3}  # of gate, up and their product
GATES = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}
SHAPES = [
    (6144, 4096), (4096, 4096), (14336, 4096), (4096, 14336), (4096, 1024), (1024, 2048), (3072, 1024),
    (1024, 3072), (28672, 8192), (8192, 28672), (10240, 8192), (16, 65536), (130, 64), (65528, 256),
]  # fmt: skip


@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("processors", [132, 114, 78, 16])
def test_cuts_fit_the_hardware(n, k, gated, processors) -> None:
    for m in (17, 64, 65, 128):
        cut = cut_skinny(m, n, k, gated, processors)
        outs = cut.width // (2 if gated else 1)
        assert outs % 8 == 0 and 16 <= cut.width <= WIDEST
        assert outs % (4 * cut.share) == 0 or cut.share == 1, "every block ends some columns, four at a time"
        assert cut.stages >= 3 and cut.shared <= SHARED + 1024
        assert m <= 64 * cut.groups


def test_known_matrices_fill_the_processors() -> None:
    """Those of Llama-3-8B: a tile for nearly every processor of 132."""
    for n, k, gated in ((6144, 4096, False), (4096, 4096, False), (14336, 4096, True), (4096, 14336, False)):
        cut = cut_skinny(64, n, k, gated, 132)
        blocks = -(-n // (cut.width // (2 if gated else 1))) * cut.share
        assert 120 < blocks <= 132


def test_many_rows_fill_the_processors() -> None:
    """Of Llama-3-8B's and Qwen3-0.6B's gate and up: as measured, cuBLAS keeps what leaves many without a tile."""
    assert GATED_SHARED <= SHARED
    assert [m for m in (100, 200, 300, 512, 1024, 8192) if fills(m, 14336, 132)] == [200, 1024, 8192]
    assert [m for m in (200, 512, 1024, 2048, 8192) if fills(m, 3072, 132)] == [2048, 8192]


def test_a_kernel_is_spelt_for_its_width() -> None:
    text = source("skinny", 48, True)
    assert "m64n48k16.f32.f16.f16" in text
    assert '"+f"(sums[23])' in text and '"+f"(sums[24])' not in text, "a thread has 64 * 48 / 128 sums"


CODE = b"\x7fELF and so on"


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch):
    """Stands in for NVIDIA's bindings and for what compiles; the options of each call, and the version."""
    seen = SimpleNamespace(version=(0, 13, 0), options=[])
    bindings = SimpleNamespace(nvrtc=SimpleNamespace(nvrtcVersion=lambda: seen.version))
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(bindings=bindings))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setattr(
        program, "compiled", lambda _name, _text, options: (seen.options.append(options), CODE)[1]
    )
    monkeypatch.setattr(program.triton.knobs.cache, "dir", str(tmp_path / "new"))
    return seen


def test_what_was_compiled_lies_on_disk(compiler, tmp_path: Path) -> None:
    for _ in range(2):
        assert program._kept("skinny", "text", {"WIDTH": 48, "ACT": 0}) == CODE
    assert len(compiler.options) == 1 and compiler.options[0][-2:] == ("-DACT=0", "-DWIDTH=48")
    program._kept("skinny", "text", {"WIDTH": 64, "ACT": 0})
    compiler.version = (0, 13, 1)
    program._kept("skinny", "text", {"WIDTH": 64, "ACT": 0})
    assert len(compiler.options) == 3, "other values and other compilers have files of their own"
    assert [path.read_bytes() for path in (tmp_path / "new").iterdir()] == [CODE] * 3


def test_a_damaged_file_is_made_again(compiler, tmp_path: Path) -> None:
    program._kept("skinny", "text", {})
    (file,) = (tmp_path / "new").iterdir()
    file.write_bytes(b"")
    assert program._kept("skinny", "text", {}) == file.read_bytes() == CODE


def test_a_disk_that_takes_nothing_ends_nobody(compiler, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(program.os, "replace", full)
    assert program._kept("skinny", "text", {}) == CODE
    assert not list((tmp_path / "new").iterdir()), "nor is anything left there"
    monkeypatch.setattr(program.triton.knobs.cache, "dir", str(tmp_path / ("x" * 300)))
    assert program._kept("skinny", "text", {}) == CODE


def test_no_memory_is_told_as_torch_tells_it() -> None:
    status = IntEnum(
        "Status", {"CUDA_SUCCESS": 0, "CUDA_ERROR_INVALID_VALUE": 1, "CUDA_ERROR_OUT_OF_MEMORY": 2}
    )
    assert program.checked((status(0), "module")) == "module"
    with pytest.raises(torch.OutOfMemoryError, match="OUT_OF_MEMORY"):
        program.checked((status(2), None))
    with pytest.raises(RuntimeError, match="INVALID_VALUE") as told:
        program.checked((status(1),))
    assert not isinstance(told.value, torch.OutOfMemoryError)


def test_a_rehearsal_notes_what_is_not_compiled() -> None:
    made = program.Program("skinny", "text", {}, threads=32, shared=0)
    noted: list[program.Program] = []
    with program.noting(noted.append):
        made.launch(1, (), 0)
    assert noted == [made]


def hopper(device: str) -> None:
    if not program.available(torch.device(device)):
        pytest.skip("no Hopper")


def close(y, want, dtype, bound=ROUNDING) -> None:
    error = (y.double() - want).abs().max() / want.abs().max()
    assert error < bound[dtype], float(error)


def operands(m, n, k, act, dtype, device):
    wide = n * (2 if act else 1)
    x = torch.randn(m, k, device=device).to(dtype)
    weight = (torch.randn(wide, k, device=device) / k**0.5).to(dtype)
    y = x.double() @ weight.double().T
    if act:
        gate, up = y.chunk(2, -1)
        y = GATES[act](gate) * up
    return x, weight, y


@pytest.mark.gpu
@pytest.mark.parametrize("m", [1, 17, 33, 64, 65, 100, 128])
@pytest.mark.parametrize(
    ("width", "share"), [(32, 1), (48, 1), (224, 1), (256, 1), (64, 2), (256, 2), (64, 4), (176, 4), (256, 8)]
)
def test_skinny(m, width, share, device) -> None:
    hopper(device)
    cut = Skinny(width, share, 1 if m <= 64 else 2)
    for n, k, dtype in (
        (512, 1024, torch.bfloat16),
        (456, 1000, torch.bfloat16),
        (1000, 648, torch.float16),
        (64, 8, torch.bfloat16),
    ):
        x, weight, want = operands(m, n, k, None, dtype, device)
        bias, residual = torch.randn(n, device=device).to(dtype), torch.randn(m, n, device=device).to(dtype)
        close(matmul.skinny(x, weight, cut=cut), want, dtype)
        want = want + bias.double() + residual.double()
        guarded = torch.full((m + 1, n), float("nan"), dtype=dtype, device=device)
        guarded[:m] = residual
        matmul.skinny(x, weight, bias, guarded[:m], cut=cut, out=guarded[:m])
        close(guarded[:m], want, dtype)
        assert guarded[m:].isnan().all(), "rows beyond the last are left alone"


@pytest.mark.gpu
@pytest.mark.parametrize("m", [17, 64, 128])
@pytest.mark.parametrize("act", sorted(GATES))
@pytest.mark.parametrize(("width", "share"), [(32, 1), (224, 1), (64, 2), (128, 4), (256, 4)])
def test_skinny_gated(m, act, width, share, device) -> None:
    hopper(device)
    cut = Skinny(width, share, 1 if m <= 64 else 2)
    for n, k, dtype in ((512, 1024, torch.bfloat16), (456, 1000, torch.float16), (8, 520, torch.bfloat16)):
        x, weight, want = operands(m, n, k, act, dtype, device)
        residual = torch.randn(m, n, device=device).to(dtype)
        y = matmul.skinny(x, weight, None, residual, act, cut=cut)
        close(y, want + residual.double(), dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("act", sorted(GATES))
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(256, 256, 512), (1000, 384, 1536), (300, 648, 200), (1, 8, 8), (2049, 2048, 64), (9000, 1304, 72)],
)
def test_gated_of_many_rows(act, m, n, k, device) -> None:
    hopper(device)
    for dtype in (torch.bfloat16, torch.float16):
        x, weight, want = operands(m, n, k, act, dtype, device)
        close(matmul.gated(x, weight, act), want, dtype, ROUNDING_ALL)


@pytest.mark.gpu
@pytest.mark.parametrize("m", [17, 128, 8192])
def test_the_ops_take_them(m, device, monkeypatch) -> None:
    """And what they cannot take goes on elsewhere, with the same result."""
    hopper(device)
    assert linear.kernels("cuda")[0].run is project.kernels("cuda")[0].run is matmul.run, "tried first"
    launched: list[str] = []
    launch = program.Program.launch
    monkeypatch.setattr(
        program.Program, "launch", lambda self, *args: (launched.append(self.name), launch(self, *args))
    )
    dtype = torch.bfloat16
    x, weight, want = operands(m, 2048, 1024, "silu", dtype, device)
    gain = torch.randn(1024, device=device).to(dtype)
    close(project(x, weight, act="silu"), want, dtype)
    assert launched == ["skinny" if m <= matmul.MOST else "gated"], "one launch"
    normed = F.rms_norm(x.double(), (1024,), gain.double(), 1e-6)
    gate, up = (normed @ weight.double().T).chunk(2, -1)
    assert (
        project(x, weight, gain=gain, eps=1e-6, act="silu").double() - F.silu(gate) * up
    ).abs().max() < 0.1
    launched.clear()
    odd, narrow, want = operands(m, 2044, 1024, None, dtype, device)
    residual = torch.randn(m, 2044, device=device).to(dtype)
    close(linear(odd, narrow, None, residual.clone()), want + residual.double(), dtype)
    assert not launched, "2044 outputs are no multiple of 8"


@pytest.mark.gpu
@pytest.mark.parametrize("m", [17, 64, 128])
def test_logits_are_float32(m, device) -> None:
    hopper(device)
    for n, dtype in ((151936, torch.bfloat16), (5000, torch.float16)):
        x, weight, want = operands(m, n, 1024, None, dtype, device)
        guarded = torch.full((m + 1, n), float("nan"), device=device)
        head_logits(x, weight, guarded[:m])
        assert (guarded[:m].double() - want).abs().max() < 1e-4 and guarded[m:].isnan().all()


@pytest.mark.gpu
def test_within_a_graph_and_after_other_kernels(device) -> None:
    """Early starts read what their predecessors have written, not what lay there."""
    hopper(device)
    dtype, m, d = torch.bfloat16, 64, 1024
    weights = [(torch.randn(d, d, device=device) / d**0.5).to(dtype) for _ in range(8)]
    x = torch.randn(m, d, device=device).to(dtype)

    def chain():
        y = x
        for weight in weights:
            y = matmul.skinny(y, weight)
        return y

    want = x.double()
    for weight in weights:
        want = (want @ weight.double().T).to(dtype).double()
    once = chain()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = chain()
    close(once, want, dtype)
    for _ in range(20):
        x.copy_(x)
        y.fill_(float("nan"))
        graph.replay()
        assert torch.equal(y, once)


@pytest.mark.gpu
def test_kernels_are_kept_on_disk(device, tmp_path: Path, monkeypatch) -> None:
    hopper(device)
    monkeypatch.setattr(program.triton.knobs.cache, "dir", str(tmp_path / "new"))
    compiled = program.compiled
    calls: list[str] = []
    monkeypatch.setattr(
        program, "compiled", lambda name, *rest: (calls.append(name), compiled(name, *rest))[1]
    )
    where = torch.device("cuda", torch.cuda.current_device())
    make = matmul._skinny.__wrapped__
    for _ in range(2):
        make(where, Skinny(64, 1, 1), 0, False, False).ready()
    assert calls == ["skinny"] and len(list((tmp_path / "new").iterdir())) == 1
    with pytest.raises(RuntimeError, match=r"bad\.cu"):
        compiled("bad", "no C++", ())
