"""Every product over a grid of shapes, with nothing written or read but what belongs to it.

Runs in a process of its own whose buffers end at forbidden pages (remote/serve.cpp). Outputs begin
as NaN and have columns on both sides that must stay so.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from octavo.ops.cpu import lib
from octavo.ops.cpu.lib import Engine, Library
from octavo.ops.cpu.program import Program
from tests.cpu.native.test_attention import Step
from tests.cpu.native.tools import BLOCKS, make, packed, rounded

ROWS = (1, 15, 16, 17, 33, 101)  # of the weight
TOKENS = (1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 15, 16, 17, 31, 32, 33, 64, 100, 512)
COLUMNS = {"floats": (1, 7, 31, 33, 64, 100, 257), "blocks": (32, 96, 416), "_K": (256, 768)}
LEFT, RIGHT = 5, 3  # columns beside a product's output


def columns(format: str) -> tuple[int, ...]:
    return COLUMNS["_K" if format.endswith("_K") else "blocks" if format in BLOCKS else "floats"]


def surrounded(tokens: int, n: int) -> Tensor:
    return torch.full((tokens, LEFT + n + RIGHT), math.nan)


def inside(y: Tensor, n: int) -> Tensor:
    """The product; whatever lies beside it is still as it was."""
    assert y[:, :LEFT].isnan().all() and y[:, LEFT + n :].isnan().all()
    return y[:, LEFT : LEFT + n]


def error(got: Tensor, want: Tensor, size: Tensor) -> float:
    """In the 2-norm, relative to the sums of magnitudes: one number may well cancel out."""
    return float((got.double() - want).norm() / size.norm())


@pytest.mark.parametrize("format", lib.FORMATS)
def test_every_shape(guarded: Library, guarded_engine: Engine, format: str) -> None:
    cycle = itertools.cycle(TOKENS)
    for n, k in itertools.product(ROWS, columns(format)):
        weight, plain = packed(guarded, guarded_engine, format, n, k, seed=n * k)
        bias = torch.randn(n)
        for m in itertools.islice(cycle, 3):
            x = torch.randn(m, k)
            taken = rounded(format, x)
            want, size = taken @ plain.double().T, taken.abs() @ plain.double().abs().T
            p = Program(guarded_engine, (k, LEFT + n + RIGHT))
            p.linear(weight, 0, 1, bias=bias, column=LEFT)
            y = surrounded(m, n)
            p.run(m, {0: x, 1: y})
            assert error(inside(y, n), want + bias, size + bias.abs()) < 1e-6, (n, k, m)
            before = inside(y, n).clone()
            added = Program(guarded_engine, (k, LEFT + n + RIGHT))
            added.linear(weight, 0, 1, add=True, column=LEFT)
            added.run(m, {0: x, 1: y})
            assert error(inside(y, n), before + want, size + before.abs()) < 1e-6, (n, k, m)


@pytest.mark.parametrize("format", lib.FORMATS)
def test_rows_read_back_and_embed_exactly(guarded: Library, guarded_engine: Engine, format: str) -> None:
    for n, k in itertools.product((1, 17, 33), columns(format)):
        weight, plain = packed(guarded, guarded_engine, format, n, k, seed=n + k)
        for r in range(n):
            assert torch.equal(guarded_engine.row(weight, r), plain[r])
        ids = torch.tensor([n - 1, *range(n), 0])
        p = Program(guarded_engine, (k,))
        p.embed(weight, 0)
        out = torch.full((len(ids), k), math.nan)
        f = Step(ids, torch.arange(len(ids)), torch.tensor([0, len(ids)], dtype=torch.int32), ())
        p.run(len(ids), {0: out}, f)
        assert torch.equal(out, plain[ids])


@pytest.mark.parametrize("format", lib.FORMATS)
def test_norms_and_gates_before_a_product_are_two_steps_in_one(
    guarded: Library, guarded_engine: Engine, format: str
) -> None:
    """The product of what the norm or gate alone makes, bit for bit: it rounds nothing on its way."""
    for k in columns(format):
        weight, _ = packed(guarded, guarded_engine, format, 21, k, seed=k)
        same = torch.eye(k)
        identity = lib.PackedWeight(guarded, "F32", k, k)
        guarded_engine.pack(identity, same, 0)
        gain = torch.rand(k)
        for prologue in (lib.NORMED, lib.SILU, lib.GELU, lib.GELU_TANH):
            width = k if prologue == lib.NORMED else 2 * k
            norm = {"norm": gain, "eps": 1e-5} if prologue == lib.NORMED else {}
            fused = Program(guarded_engine, (width, 21))
            fused.linear(weight, 0, 1, prologue=prologue, **norm)  # type: ignore[arg-type]
            apart = Program(guarded_engine, (width, k, 21))
            apart.linear(identity, 0, 1, prologue=prologue, **norm)  # type: ignore[arg-type]
            apart.linear(weight, 1, 2)
            for m in (1, 6):
                x, one, two = torch.randn(m, width), torch.empty(m, 21), torch.empty(m, 21)
                fused.run(m, {0: x, 1: one})
                apart.run(m, {0: x, 2: two})
                assert torch.equal(one, two), (k, prologue, m)


@pytest.mark.parametrize("format", lib.FORMATS)
def test_packing_writes_its_own_rows_only(guarded: Library, guarded_engine: Engine, format: str) -> None:
    """Parts packed in any order, one a call, are what is packed at once."""
    k = columns(format)[-1]
    made = make(format, 37, k)
    whole, parts = (lib.PackedWeight(guarded, format, 37, k) for _ in range(2))
    guarded_engine.pack(whole, made.stored, 0, made.scales)
    for first, last in ((30, 37), (0, 1), (1, 16), (16, 30)):
        scales = None if made.scales is None else made.scales[first:last].clone()
        guarded_engine.pack(parts, made.stored[first:last].clone(), first, scales)
    assert torch.equal(whole.data, parts.data)
