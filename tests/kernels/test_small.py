"""Norm, gated activation, angles and entry into attention against their references."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from octavo.ops.activation import gelu_mul, gelu_tanh_mul, silu_mul
from octavo.ops.enter import enter
from octavo.ops.norm import rms_norm
from octavo.ops.quant import project_eight, to_eight_bits
from octavo.ops.rope import rope_angles
from octavo.ops.triton.activation import gated
from octavo.ops.triton.enter import entered
from octavo.ops.triton.norm import normed
from octavo.ops.triton.quant import quantise, streaming
from octavo.ops.triton.rope import angles as made_angles

ROUNDING = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
DTYPES = list(ROUNDING)
ACTS = {"silu": silu_mul, "gelu": gelu_mul, "gelu_tanh": gelu_tanh_mul}


def near(got: torch.Tensor, want: torch.Tensor, dtype: torch.dtype) -> None:
    """Each value within one rounding of the wider result, or of a sixteenth of the largest."""
    least = ROUNDING[dtype] * float(want.abs().max()) / 16
    torch.testing.assert_close(got.double(), want.double(), rtol=ROUNDING[dtype], atol=least)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 576), (3, 1024), (5, 7, 96), (2, 1)])
def test_rms_norm(shape, dtype, device):
    x = torch.randn(shape, device=device).to(dtype) * 3
    weight = torch.randn(shape[-1], device=device).to(dtype)
    near(normed(x, weight, 1e-5), rms_norm.reference(x.double(), weight.double(), 1e-5), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("act", sorted(ACTS))
def test_gated(act, dtype, device):
    for shape in ((1, 96), (3, 4000)):
        x = torch.randn(shape, device=device).to(dtype) * 4
        near(gated(x, act), ACTS[act].reference(x.double()), dtype)


@pytest.mark.parametrize("d", [64, 96, 20])
def test_rope_angles(d, device):
    inverse = 500000.0 ** -(torch.arange(0, d, 2, device=device).float() / d)
    positions = torch.tensor([0, 1, 7, 4095, 131071, 77777, 2, 3, 9], device=device)
    for dtype in (torch.float32, torch.bfloat16):
        got = made_angles(positions, inverse, 1.25, dtype)
        want = rope_angles.reference(positions, inverse, 1.25, dtype)
        assert got.shape == want.shape
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6 if dtype == torch.float32 else 8e-3)


def entry(n, heads, kv, d, turning, dtype, cache_dtype, norm, device, apart=False):
    qkv = torch.randn(n, (heads + 2 * kv) * d, device=device).to(dtype)
    inverse = 10000.0 ** -(torch.arange(0, turning, 2, device=device).float() / turning)
    angles = rope_angles.reference(torch.arange(n, device=device) * 37, inverse, 1.0, torch.float32)
    q_norm, k_norm = (torch.randn(d, device=device).to(dtype) if norm else None for _ in range(2))
    pages, page = n + 2, 4
    slots = torch.randperm((pages - 1) * page, device=device)[:n] + page

    def caches() -> tuple[torch.Tensor, torch.Tensor]:
        if apart:  # heads before positions, as two tensors
            shape = (pages, kv, page, d)
            k, v = (torch.zeros(shape, device=device).to(cache_dtype).transpose(1, 2) for _ in range(2))
            return k, v
        both = torch.zeros(pages, page, 2, kv, d, device=device).to(cache_dtype)
        return both[:, :, 0], both[:, :, 1]

    outcomes = []
    for run, wide in ((entered, False), (enter.reference, True)):
        k, v = caches()
        lift = (
            (lambda t: None if t is None else t.double())
            if wide and dtype != torch.float32
            else (lambda t: t)
        )
        target = [k, v] if not wide or cache_dtype == torch.float8_e4m3fn else [k.float(), v.float()]
        q = run(lift(qkv), angles, lift(q_norm), lift(k_norm), 1e-6, heads, kv, *target, slots, 0.5, 0.25)
        outcomes.append([q, *(c.float() for c in target)])
    return outcomes


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(
    ("n", "heads", "kv", "d", "turning"),
    [(1, 4, 2, 64, 64), (5, 3, 1, 80, 80), (3, 4, 4, 64, 32), (2, 9, 3, 128, 128)],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_enter(n, heads, kv, d, turning, norm, dtype, device):
    got, want = entry(n, heads, kv, d, turning, dtype, dtype, norm, device, apart=n == 5)
    for a, b in zip(got, want, strict=True):
        near(a, b, dtype)


def test_enter_eight_bit_cache_saturates(device):
    got, want = entry(4, 2, 2, 64, 64, torch.bfloat16, torch.float8_e4m3fn, True, device)
    near(got[0], want[0], torch.bfloat16)
    for a, b in zip(got[1:], want[1:], strict=True):
        # one step of the 8-bit format where the wider reference rounds the other way; the
        # interpreter's own cast loses the carry where a mantissa rounds up to the next power of two
        off = ((a - b).abs() > b.abs() * 0.15 + 2.0**-9).float().mean()
        assert a.abs().max() <= 448 and (a != b).float().mean() < 0.02
        assert off < 0.01 if device == "cpu" else off == 0
    qkv = torch.full((1, 3 * 64), 1e6, device=device).bfloat16()
    angles = torch.zeros(1, 2, 1, 64, device=device)
    cache = torch.zeros(1, 1, 2, 1, 64, device=device).to(torch.float8_e4m3fn)
    entered(
        qkv,
        angles,
        None,
        None,
        0.0,
        1,
        1,
        cache[:, :, 0],
        cache[:, :, 1],
        torch.zeros(1, dtype=torch.long, device=device),
    )
    assert (cache[:, :, 1].float() == 448).all() and F.relu(cache.float()).isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("d", [64, 80, 96, 112, 128, 160, 192, 256])
@pytest.mark.parametrize("n", [1, 17, 256, 3000])
def test_enter_everywhere(n, d, device):
    for heads, kv in ((32, 8), (16, 8), (8, 8), (7, 1), (28, 4)):
        got, want = entry(n, heads, kv, d, d, torch.bfloat16, torch.bfloat16, n % 2 == 1, device)
        for a, b in zip(got, want, strict=True):
            near(a, b, torch.bfloat16)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("shape", [(1, 64), (5, 1000)])
def test_rows_to_eight_bits(shape, norm, device):
    x = torch.randn(shape, device=device).bfloat16()
    gain = torch.randn(shape[1], device=device).bfloat16() if norm else None
    values, scale = quantise(x, gain, 1e-5)
    want = x.double() if gain is None else rms_norm.reference(x.double(), gain.double(), 1e-5)
    assert values.dtype == torch.float8_e4m3fn and scale.shape == (shape[0], 1)
    torch.testing.assert_close(scale[:, 0].double(), want.abs().amax(1) / 448, rtol=1e-5, atol=0)
    off = (
        ((values.double() * scale - want).abs() > want.abs() / 15 + scale.double() * 2.0**-9).double().mean()
    )
    assert off < 0.08 if device == "cpu" else off == 0  # the interpreter's cast, see above


@pytest.mark.parametrize("m", [1, 5])
@pytest.mark.parametrize("act", [None, "silu"])
def test_few_rows_of_a_projection_in_eight_bits(m, act, device):
    """Several rows are rounded to 8 bits with their norm, one is not."""
    n, k = 96, 256
    x, gain = torch.randn(m, k, device=device).bfloat16(), torch.rand(k, device=device).bfloat16() + 0.5
    weight, scale = to_eight_bits(torch.randn(n * 2 if act else n, k, device=device) / k**0.5)
    residual = torch.randn(m, n, device=device).bfloat16()
    y = streaming(x, weight, scale, None, residual, gain, 1e-5, act)
    h = rms_norm.reference(x.float(), gain.float(), 1e-5)
    if m > 1:
        values, steps = quantise(x, gain, 1e-5)
        h = values.float() * steps
    want = project_eight.reference(h, weight, scale, None, residual.float(), None, 0.0, act)
    assert y.dtype == x.dtype
    near(y, want, torch.bfloat16)


@pytest.mark.parametrize("act", sorted(ACTS))
def test_gated_rows_to_eight_bits(act, device):
    x = torch.randn(5, 400, device=device).bfloat16()
    values, scale = quantise(x, act=act)
    want = ACTS[act].reference(x.float())
    assert values.shape == (5, 200)
    torch.testing.assert_close(scale[:, 0], want.abs().amax(1) / 448, rtol=1e-4, atol=0)
    error = (values.float() * scale - want).norm() / want.norm()
    assert error < (0.12 if device == "cpu" else 0.04)  # the interpreter's cast, see above
