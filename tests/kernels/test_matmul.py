"""Skinny products against plain torch in float64, over shapes, dtypes, cuts and epilogues."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from octavo.ops.triton.launch import gluon_known
from octavo.ops.triton.matmul import Terms, multiply
from octavo.ops.triton.matmul_cut import Dot, Few, Vec, cut_dot, pad_rows, programs_of, sharers_of, steps_of

ROUNDING = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
GATES = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}


def expected(x: torch.Tensor, weight: torch.Tensor, t: Terms) -> torch.Tensor:
    x, y = x.double(), weight.double()
    if t.gain is not None:
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + t.eps) * t.gain.double()
    y = x @ y.T
    if t.scale is not None:
        y = y * t.scale.double()
    if t.bias is not None:
        y = y + t.bias.double()
    if t.act is not None:
        gate, up = y.chunk(2, -1)
        y = GATES[t.act](gate) * up
    return y if t.residual is None else y + t.residual.double()


def check(m, n, k, dtype, device, cut, *, act=None, norm=False, extra=False, eight=False, out=None) -> None:
    wide = n * (2 if act else 1)
    x = torch.randn(m, k, device=device).to(dtype)
    weight = torch.randn(wide, k, device=device) / k**0.5
    weight = (weight * 40).to(torch.float8_e4m3fn) if eight else weight.to(dtype)
    terms = Terms(
        scale=torch.rand(wide, device=device) / 40 if eight else None,
        bias=torch.randn(wide, device=device).to(dtype) if extra else None,
        residual=torch.randn(m, n, device=device).to(dtype) if extra else None,
        gain=torch.randn(k, device=device).to(dtype) if norm else None,
        eps=1e-6,
        act=act,
        dtype=out,
    )
    y = torch.full((m, n), float("nan"), dtype=out or dtype, device=device)
    assert multiply(x, weight, terms, cut, y) is y
    want = expected(x, weight, terms)
    error = (y.double() - want).abs().max() / want.abs().max()
    bound = 1e-5 if isinstance(cut, Few) and y.dtype == torch.float32 else ROUNDING[y.dtype]
    assert error < bound, (float(error), terms)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("n", "k", "cut"),
    [(40, 64, Vec(4, 64, 4)), (33, 200, Vec(8, 128, 4)), (16, 1024, Vec(2, 256, 4)), (5, 48, Vec(4, 256, 8))],
)
def test_one_row(n, k, cut, dtype, device):
    check(1, n, k, dtype, device, cut)
    check(1, n, k, dtype, device, cut, norm=True, extra=True)
    check(1, n, k, dtype, device, cut, act="silu", norm=True)
    check(1, n, k, dtype, device, cut, out=torch.float32)


@pytest.mark.parametrize("m", [2, 9, 16, 17, 40, 64])
@pytest.mark.parametrize("engine", [False, True])
def test_some_rows(m, engine, device):
    whole, shared = Dot(32, 32, 4, 3, 0, engine=engine), Dot(16, 32, 4, 3, 2, engine=engine)
    for n, k in ((72, 160), (100, 64)):
        check(m, n, k, torch.bfloat16, device, whole, extra=True)
        check(m, n, k, torch.float16, device, shared)
        check(m, n, k, torch.bfloat16, device, shared, extra=True, out=torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("m", [2, 7, 8, 9, 16])
@pytest.mark.parametrize("cut", [Few(16, 64, 2), Few(32, 128, 4), Few(16, 256, 8)], ids=str)
@pytest.mark.parametrize(("n", "k"), [(72, 168), (100, 4096), (48, 1544)])
def test_weights_in_registers(m, cut, n, k, device):
    if not gluon_known(torch.device(device)):
        return
    for dtype in (torch.bfloat16, torch.float16):
        check(m, n, k, dtype, device, cut)
        check(m, n, k, dtype, device, cut, norm=True, extra=True)
        check(m, n, k, dtype, device, cut, act="silu", norm=True)
    for act in sorted(GATES):
        check(m, n, k, torch.bfloat16, device, cut, act=act, extra=True, out=torch.float32)


@pytest.mark.parametrize("m", [1, 5, 33])
@pytest.mark.parametrize("act", sorted(GATES))
def test_gated(m, act, device):
    for cut in (Dot(16, 32, 4, 2, 0), Dot(16, 32, 4, 2, 1)) if m > 1 else (Vec(4, 64, 4),):
        check(m, 48, 96, torch.bfloat16, device, cut, act=act, extra=True)


@pytest.mark.parametrize("m", [1, 3, 20])
@pytest.mark.parametrize("act", [None, "silu"])
def test_eight_bit_weights(m, act, device):
    for cut in (Dot(16, 64, 4, 2, 0), Dot(16, 32, 4, 2, 2)) if m > 1 else (Vec(4, 64, 4),):
        check(m, 48, 96, torch.bfloat16, device, cut, act=act, eight=True, extra=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("n", "k", "cut"), [(33, 208, Vec(4, 128, 1)), (16, 1024, Vec(2, 256, 2)), (5, 48, Vec(1, 64, 1))]
)
def test_one_row_of_eight_bit_weights(n, k, cut, dtype, device):
    check(1, n, k, dtype, device, cut, eight=True)
    check(1, n, k, dtype, device, cut, eight=True, norm=True, extra=True)
    check(1, n, k, dtype, device, cut, eight=True, norm=True, act="silu", extra=True)


@pytest.mark.parametrize("m", [2, 3, 20, 64])
@pytest.mark.parametrize("act", [None, "silu"])
@pytest.mark.parametrize("cut", [Dot(64, 32, 4, 2, 0), Dot(64, 32, 4, 2, 2), Dot(64, 64, 4, 3, 1, 1, False)])
def test_eight_bits_on_both_sides(m, act, cut, device):
    n, k = 72, 160
    wide = n * (2 if act else 1)
    x = torch.randn(m, k, device=device).to(torch.float8_e4m3fn)
    weight = torch.randn(wide, k, device=device).to(torch.float8_e4m3fn)
    x_scale, scale = torch.rand(m, device=device), torch.rand(wide, device=device) / k**0.5
    bias, residual = torch.randn(wide, device=device), torch.randn(m, n, device=device).bfloat16()
    terms = Terms(scale, bias, residual, act=act, dtype=torch.bfloat16, x_scale=x_scale)
    y = multiply(x, weight, terms, cut)
    want = expected(x.double() * x_scale.double()[:, None], weight, terms)
    assert y.dtype == torch.bfloat16
    assert (y.double() - want).abs().max() / want.abs().max() < ROUNDING[torch.bfloat16]


def test_the_line_of_steps_is_shared_out_whole():
    """Every step has one owner, and no tile more sharers than the kernel is compiled for."""
    for n, k in ((64, 4096), (4096, 4096), (28672, 512), (1000, 14336), (48, 32)):
        for cut in (Dot(64, 128, 4, 4, 1), Dot(32, 256, 4, 4, 2), Dot(16, 64, 4, 4, 4)):
            for processors in (4, 132):
                programs = programs_of(cut, n, k, processors)
                steps, total = steps_of(cut, n, k)
                begins = [p * total // programs for p in range(programs + 1)]
                assert all(a < b for a, b in itertools.pairwise(begins))
                owners = [((s + 1) * programs - 1) // total for s in range(total)]
                assert all(begins[p] <= s < begins[p + 1] for s, p in enumerate(owners))
                most = max(owners[t + steps - 1] - owners[t] + 1 for t in range(0, total, steps))
                assert most <= sharers_of(cut, n, k, programs)


FULL = [(6144, 4096), (4096, 4096), (4096, 14336), (4096, 1024), (1024, 2048), (1024, 3072), (6144, 1024)]


@pytest.mark.gpu
@pytest.mark.parametrize(("n", "k"), FULL)
@pytest.mark.parametrize("m", [1, 2, 8, 16, 17, 31, 32, 50, 64])
def test_real_shapes(n, k, m, device):
    for eight in (False, True):
        check(m, n, k, torch.bfloat16, device, None, extra=True, eight=eight)
        check(m, n, k, torch.bfloat16, device, None, act="silu", eight=eight)


def test_cuts_fit_their_rows():
    assert [pad_rows(m) for m in (2, 16, 17, 32, 33, 64)] == [16, 16, 32, 32, 64, 64]
    assert cut_dot(64, 4096, 4096, torch.bfloat16, False).depth % 16 == 0
