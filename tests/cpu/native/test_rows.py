"""The small ops inside a program against torch: norms, gates, angles, rotation, embedding."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from octavo.ops.activation import gelu_mul, gelu_tanh_mul, silu_mul
from octavo.ops.cpu import lib
from octavo.ops.cpu.lib import Engine, Library, NativeError, PackedWeight
from octavo.ops.cpu.program import Heads, Program
from octavo.ops.norm import rms_norm
from tests.cpu.native.test_attention import Step, cache_of, step
from tests.cpu.native.tools import packed


def identity(library: Library, engine: Engine, k: int) -> PackedWeight:
    weight = PackedWeight(library, "F32", k, k)
    engine.pack(weight, torch.eye(k), 0)
    return weight


@pytest.mark.parametrize("k", [16, 70, 576])
@pytest.mark.parametrize("rows", [1, 9])
def test_norm(library: Library, engine: Engine, k: int, rows: int) -> None:
    x, w = torch.randn(rows, k), torch.rand(k)
    p = Program(engine, (k, k, k))
    p.norm(0, 1, w, 1e-5)
    p.linear(identity(library, engine, k), 0, 2, prologue=lib.NORMED, norm=w, eps=1e-5)
    alone, fused = torch.empty(rows, k), torch.empty(rows, k)
    p.run(rows, {0: x, 1: alone, 2: fused})
    torch.testing.assert_close(alone, rms_norm(x, w, 1e-5), rtol=1e-5, atol=1e-6)
    assert torch.equal(alone, fused)


@pytest.mark.parametrize(
    "gate, reference", [(lib.SILU, silu_mul), (lib.GELU, gelu_mul), (lib.GELU_TANH, gelu_tanh_mul)]
)
def test_gates(library: Library, engine: Engine, gate: int, reference: object) -> None:
    k = 70
    x = torch.randn(5, 2 * k) * 4
    x[0, 0], x[0, 1] = 200.0, -200.0  # far beyond what exp can hold
    p = Program(engine, (2 * k, k))
    p.linear(identity(library, engine, k), 0, 1, prologue=gate)
    out = torch.empty(5, k)
    p.run(5, {0: x, 1: out})
    want = reference(x.double()).float()  # type: ignore[operator]
    torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-5)


def test_add_and_columns(library: Library, engine: Engine) -> None:
    weight, plain = packed(library, engine, "F32", 20, 32)
    x, y = torch.randn(3, 32), torch.randn(3, 50)
    want = y.clone()
    want[:, 7:27] += F.linear(x, plain)
    p = Program(engine, (32, 50))
    p.linear(weight, 0, 1, add=True, column=7)
    p.run(3, {0: x, 1: y})
    torch.testing.assert_close(y, want)


@pytest.mark.parametrize("format", lib.FORMATS)
def test_embedding(library: Library, engine: Engine, format: str) -> None:
    weight, plain = packed(library, engine, format, 40, 256)
    ids = torch.tensor([0, 39, 7, 7])
    p = Program(engine, (256,))
    p.embed(weight, 0, scale=2.0)
    out = torch.empty(4, 256)
    f = Step(ids, torch.arange(4), torch.tensor([0, 4], dtype=torch.int32), ())
    p.run(4, {0: out}, f)
    assert torch.equal(out, plain[ids] * 2)
    f.tokens = torch.tensor([0, 1, 40, 2])
    with pytest.raises(NativeError, match="out of range"):
        p.run(4, {0: out}, f)


@pytest.mark.parametrize("rope_dim", [64, 32, 24])
def test_rotation_and_head_norms(engine: Engine, rope_dim: int) -> None:
    """One token a row sees itself alone: its output is its value, its cached key the turned one."""
    s = Heads(2, 1, 64, 16, torch.float32, 1.0, eps=1e-6)
    inverse = 10000.0 ** -(torch.arange(0, rope_dim, 2).float() / rope_dim)
    norms = (torch.rand(64), torch.rand(64))
    p = Program(engine, (4 * 64, 2 * 64, rope_dim))
    p.angles(2, inverse)
    p.attention("layer", 0, 1, s, angles=2, rope_dim=rope_dim, norms=norms)
    qkv, caches = torch.randn(1, 4 * 64), cache_of(s)
    caches["layer"].zero_()
    at = 21
    out = torch.empty(1, 128)
    p.run(1, {0: qkv.clone(), 1: out}, step([(at, 1, torch.tensor([3, 5], dtype=torch.int32))], caches))
    key = rms_norm(qkv[0, 128:192], norms[1], 1e-6)
    angle = at * inverse
    a, b = key[: rope_dim // 2], key[rope_dim // 2 : rope_dim]
    want = torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin(), key[rope_dim:]))
    stored = caches["layer"][5, 0, 0].view(64, 16)[:, at - 16]  # keys lie in panels of 16
    torch.testing.assert_close(stored, want, rtol=1e-4, atol=1e-5)
    assert torch.equal(caches["layer"][5, 1, 0, at - 16], qkv[0, 192:])


def test_positions_beyond_the_tables_are_refused(engine: Engine) -> None:
    s = Heads(2, 1, 64, 16, torch.float32, 1.0)
    p = Program(engine, (256, 128))
    p.attention("layer", 0, 1, s)
    f = step([(16, 1, torch.tensor([3], dtype=torch.int32))], cache_of(s))
    with pytest.raises(NativeError, match="out of range"):
        p.run(1, {0: torch.zeros(1, 256), 1: torch.empty(1, 128)}, f)
