"""Packed products against torch, and the promise that a row's bits are its own."""

from __future__ import annotations

import pytest
import torch

from octavo.ops.cpu import lib
from octavo.ops.cpu.lib import Engine, Library, NativeError, PackedWeight, linear
from tests.cpu.native.tools import make, off, packed, rounded

SHAPES = {"F32": ((33, 40), (128, 576)), "BF16": ((33, 70), (130, 576)), "INT8": ((33, 70), (80, 1000))}
BY_32 = ((50, 64), (96, 576), (16, 96))
BY_256 = ((50, 256), (96, 768))


def shapes(format: str) -> tuple[tuple[int, int], ...]:
    return SHAPES.get(format) or (BY_256 if format.endswith("_K") else BY_32)


@pytest.mark.parametrize("format", lib.FORMATS)
def test_products_equal_torch(library: Library, engine: Engine, format: str) -> None:
    for n, k in shapes(format):
        weight, plain = packed(library, engine, format, n, k)
        x = torch.randn(37, k, generator=torch.Generator().manual_seed(n))
        bias = torch.randn(n)
        for m in (1, 2, 5, 16, 37):
            want = rounded(format, x[:m]) @ plain.double().T + bias.double()
            assert off(linear(engine, x[:m].contiguous(), weight, bias), want) < 3e-6, (n, k, m)


@pytest.mark.parametrize("format", lib.FORMATS)
def test_error_against_exact_activations_is_as_stated(library: Library, engine: Engine, format: str) -> None:
    weight, plain = packed(library, engine, format, 64, 768)
    x = torch.randn(40, 768, generator=torch.Generator().manual_seed(1))
    stated = {"F32": 1e-6, "BF16": 3e-3, "INT8": 1.2e-2}.get(format, 8e-3)
    assert off(linear(engine, x, weight), x.double() @ plain.double().T) < stated


@pytest.mark.parametrize("format", lib.FORMATS)
def test_rows_read_back_exactly(library: Library, engine: Engine, format: str) -> None:
    n, k = shapes(format)[0]
    weight, plain = packed(library, engine, format, n, k)
    for r in range(n):
        assert torch.equal(engine.row(weight, r), plain[r])


@pytest.mark.parametrize("format", lib.FORMATS)
def test_a_row_has_the_same_bits_alone_and_among_others(
    library: Library, engine: Engine, format: str
) -> None:
    n, k = shapes(format)[-1]
    weight, _ = packed(library, engine, format, n, k)
    x = torch.randn(512, k, generator=torch.Generator().manual_seed(2))
    whole = linear(engine, x, weight)
    for size in (1, 7, 16, 32):
        for at in (0, 100, 512 - size):
            assert torch.equal(linear(engine, x[at : at + size].contiguous(), weight), whole[at : at + size])
    order = torch.randperm(512, generator=torch.Generator().manual_seed(3))[:33]
    assert torch.equal(linear(engine, x[order].contiguous(), weight), whole[order])


@pytest.mark.parametrize("format", lib.FORMATS)
def test_threads_do_not_change_bits(library: Library, format: str) -> None:
    n, k = shapes(format)[-1]
    x = torch.randn(21, k)
    results = []
    for threads in (1, 2, 5):
        engine = Engine(library, threads)
        weight, _ = packed(library, engine, format, n, k)
        results.append(linear(engine, x, weight))
        engine.close()
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_integer_levels_agree_to_the_bit(library: Library) -> None:
    """All but the portable one, which rounds a product before it adds."""
    x = torch.randn(20, 256)
    for format in ("Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K"):
        results = []
        for level in library.levels[1:]:
            engine = Engine(library, 1, level)
            weight, _ = packed(library, engine, format, 48, 256)
            results.append(linear(engine, x, weight))
        assert all(torch.equal(results[0], r) for r in results[1:])


def test_parts_are_packed_side_by_side(library: Library, engine: Engine) -> None:
    made = [make("Q4_0", rows, 64, seed) for seed, rows in enumerate((20, 5, 9))]
    weight = PackedWeight(library, "Q4_0", 34, 64)
    first = 0
    for part in made:
        engine.pack(weight, part.stored, first)
        first += len(part.stored)
    plain = torch.cat([part.plain for part in made])
    x = torch.randn(3, 64)
    assert off(linear(engine, x, weight), rounded("Q4_0", x) @ plain.double().T) < 3e-6


@pytest.mark.parametrize("format", ["INT8", "Q8_0", "Q4_1"])
def test_zeros_and_numbers_that_are_none(library: Library, engine: Engine, format: str) -> None:
    weight, _ = packed(library, engine, format, 32, 64)
    x = torch.zeros(4, 64)
    x[1, 3], x[2, 5], x[3, 40] = float("nan"), float("inf"), 1e-38
    y = linear(engine, x, weight)
    assert torch.equal(y[0], torch.zeros(32)) and y[1].isnan().all() and y[2].isnan().all()
    assert y[3].isfinite().all()


def test_what_does_not_fit_is_refused(library: Library, engine: Engine) -> None:
    with pytest.raises(NativeError):
        PackedWeight(library, "Q4_K", 16, 128)
    with pytest.raises(NativeError):
        PackedWeight(library, "INT8", 16, 70000)
    weight = PackedWeight(library, "F32", 16, 8)
    with pytest.raises(NativeError):
        engine.pack(weight, torch.zeros(9, 8), 8)
    with pytest.raises(NativeError):
        engine.row(weight, 16)
    with pytest.raises(NativeError):
        Engine(library, 0)
