"""Every op against an independent formula in float64, and every kernel against its reference."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from octavo.nn.activation import GATE_NAMES
from octavo.ops import activation, attention, basic, cache, matmul, norm, rope
from octavo.ops.op import Op, op

MODULES = (activation, attention, basic, cache, matmul, norm, rope)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def close(got: Tensor, wanted: Tensor, share: float = 1e-6) -> None:
    assert got.shape == wanted.shape
    assert (got.double() - wanted.double()).abs().max() <= share * wanted.abs().max()


def test_rms_norm() -> None:
    x, w = torch.randn(5, 48), torch.randn(48)
    wide = x.double()
    wanted = wide / (wide.pow(2).mean(-1, keepdim=True) + 0.1).sqrt() * w
    close(norm.rms_norm(x, w, 0.1), wanted)
    close(
        norm.rms_norm(x.view(5, 4, 12), w[:12], 0.1)[2, 1],
        (v := x[2, 12:24].double()) / (v.pow(2).mean() + 0.1).sqrt() * w[:12],
    )
    assert norm.rms_norm(x.bfloat16(), w.bfloat16(), 0.1).dtype == torch.bfloat16


@pytest.mark.parametrize(("name", "act"), [
    ("silu", lambda g: g / (1 + torch.exp(-g))),
    ("swish", lambda g: g / (1 + torch.exp(-g))),
    ("gelu", lambda g: g * 0.5 * (1 + torch.erf(g / math.sqrt(2)))),
    ("gelu_new", lambda g: 0.5 * g * (1 + torch.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3)))),
    ("gelu_pytorch_tanh", lambda g: 0.5 * g * (1 + torch.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3)))),
])  # fmt: skip
def test_gated_activations(name: str, act: object) -> None:
    x = torch.randn(4, 20) * 3
    kept = x.clone()
    wide = x.double()
    close(activation.GATES[GATE_NAMES[name]](x), act(wide[:, :10]) * wide[:, 10:])  # type: ignore[operator]
    assert torch.equal(x, kept), "an op leaves its input alone"


def test_rope_turns_pairs_by_complex_multiplication() -> None:
    positions = torch.tensor([0, 1, 7, 8191])
    inverse = 10000.0 ** -(torch.arange(0, 16, 2).float() / 16)
    x = torch.randn(4, 3, 16)
    angles = rope.rope_angles(positions, inverse, 1.0, torch.float32)
    assert angles.shape == (4, 2, 1, 16)
    turn = torch.polar(torch.ones(4, 8, dtype=torch.double), positions[:, None] * inverse.double())[:, None]
    wide = torch.complex(x[..., :8].double(), x[..., 8:].double()) * turn
    close(rope.rope(x, angles), torch.cat((wide.real, wide.imag), -1), 1e-3)  # float32 angles at 8191
    close(rope.rope(x, angles)[:3], torch.cat((wide.real, wide.imag), -1)[:3])


def test_rope_scale_and_partial_turn() -> None:
    inverse = torch.tensor([1.0, 0.1])
    x = torch.randn(3, 2, 6)
    angles = rope.rope_angles(torch.arange(3), inverse, 1.5, torch.float32)
    turned = rope.rope(x, angles)
    assert torch.equal(turned[..., 4:], x[..., 4:])
    close(turned[0, :, :4], 1.5 * x[0, :, :4])
    close(turned[2, 0, 1], 1.5 * (x[2, 0, 1] * math.cos(0.2) - x[2, 0, 3] * math.sin(0.2)))
    assert rope.rope_angles(torch.arange(3), inverse, 1.0, torch.bfloat16).dtype == torch.bfloat16


def test_linear_and_head() -> None:
    x, w, b = torch.randn(5, 8), torch.randn(6, 8), torch.randn(6)
    close(matmul.linear(x, w), x.double() @ w.double().t())
    close(matmul.linear(x, w, b), x.double() @ w.double().t() + b)
    assert matmul.head_logits(x.bfloat16(), w.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("rows", [1, 2, 3, 16, 32, 33])
@pytest.mark.parametrize("biased", [False, True])
def test_linear_kernels_equal_the_reference(rows: int, biased: bool) -> None:
    x, w = torch.randn(rows, 64).bfloat16(), torch.randn(96, 64).bfloat16()
    bias = torch.randn(96).bfloat16() if biased else None
    wanted = x.double() @ w.double().t() + (bias.double() if bias is not None else 0)
    got = matmul.linear(x, w, bias)
    assert got.is_contiguous() and got.dtype == torch.bfloat16
    close(got, wanted, 2**-7)
    assert any(k.when is None or k.when(x, w, bias) for k in matmul.linear.kernels("cpu")) == (rows <= 32)


def test_small_ops() -> None:
    w = torch.randn(10, 4)
    assert torch.equal(basic.embedding(torch.tensor([3, 3, 0]), w), torch.stack((w[3], w[3], w[0])))
    assert torch.equal(basic.gather_rows(w, torch.tensor([9, 1])), w[[9, 1]])
    a, b = basic.split(w, [1, 3])
    assert torch.equal(torch.cat((a, b), 1), w) and b.shape == (10, 3)
    assert torch.equal(basic.heads(w, 2)[4, 1], w[4, 2:])
    assert torch.equal(basic.add(w, w), w * 2)


def test_store_kv() -> None:
    paged = torch.zeros(4, 3, 2, 2, 5)
    k, v = torch.randn(3, 2, 5), torch.randn(3, 2, 5)
    cache.store_kv(k, v, paged, torch.tensor([11, 0, 4]))
    assert torch.equal(paged[3, 2], torch.stack((k[0], v[0])))
    assert torch.equal(paged[0, 0], torch.stack((k[1], v[1])))
    assert torch.equal(paged[1, 1], torch.stack((k[2], v[2])))
    assert paged.count_nonzero() == 3 * 2 * 2 * 5


@pytest.mark.parametrize("window", [0, 3])
def test_paged_attention_by_hand(window: int) -> None:
    """One query head at a time, one key at a time, in Python's floats."""
    paged = torch.randn(5, 4, 2, 2, 8)
    pages, length, n = torch.tensor([3, 1, 4]), 10, 4
    q = torch.randn(n, 6, 8)
    got = attention.paged_attention(q, paged, pages, length, 0.5, window)
    for i in range(n):
        position = length - n + i
        first = max(0, position - window + 1) if window else 0
        for head in range(6):
            keys = [paged[pages[p // 4], p % 4, 0, head // 3].double() for p in range(first, position + 1)]
            values = [paged[pages[p // 4], p % 4, 1, head // 3].double() for p in range(first, position + 1)]
            weights = [math.exp(0.5 * float(q[i, head].double() @ key)) for key in keys]
            wanted = sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights)
            close(got[i, head], wanted, 1e-5)


def test_every_op_says_its_shapes() -> None:
    ops = [item for module in MODULES for item in vars(module).values() if isinstance(item, Op)]
    assert len(ops) > 12
    for each in ops:
        assert each.__doc__, each.name


def test_kernels_are_tried_newest_first_where_they_apply() -> None:
    @op
    def double(x: Tensor) -> Tensor:
        """x [n] -> [n]"""
        return x * 2

    said: list[str] = []

    @double.kernel("cpu", when=lambda x: len(x) > 2, invariant=True)
    def long(x: Tensor) -> Tensor:
        said.append("long")
        return x + x

    @double.kernel("meta")
    def elsewhere(x: Tensor) -> Tensor:
        said.append("meta")
        return x

    assert double(torch.ones(2)).tolist() == [2, 2] and said == []
    assert double(torch.ones(3)).tolist() == [2, 2, 2] and said == ["long"]
    assert [k.invariant for k in double.kernels("cpu")] == [True] and double.kernels("cuda") == ()

    @double.kernel("cpu")
    def always(x: Tensor) -> Tensor:
        said.append("always")
        return x + x

    double(torch.ones(3))
    assert said == ["long", "always"]
