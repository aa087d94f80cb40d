"""Paged attention against the reference op, and bits that do not depend on cuts or company."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from octavo.attention.native import NativeAttention
from octavo.core.messages import Copy
from octavo.nn.protocols import CacheSpec
from octavo.ops.cpu.lib import Engine
from octavo.ops.cpu.program import Heads, Program, cache_width
from octavo.runner.cache import Caches, lay_out
from tests.cpu.native.tools import off

PAGES = 64


@dataclass
class Group:
    lengths: Tensor
    tables: Tensor


@dataclass
class Step:
    tokens: Tensor
    positions: Tensor
    row_start: Tensor
    groups: tuple[Group, ...]
    caches: dict[str, Tensor] = field(default_factory=dict)


def step(rows: list[tuple[int, int, Tensor]], caches: dict[str, Tensor]) -> Step:
    """rows: (first position, count, pages)."""
    starts, positions = [0], []
    tables = torch.zeros(len(rows), max(len(p) for _, _, p in rows), dtype=torch.int32)
    for i, (start, count, pages) in enumerate(rows):
        starts.append(starts[-1] + count)
        positions += range(start, start + count)
        tables[i, : len(pages)] = pages
    lengths = torch.tensor([s + c for s, c, _ in rows], dtype=torch.int32)
    return Step(
        torch.zeros(starts[-1], dtype=torch.int64), torch.tensor(positions),
        torch.tensor(starts, dtype=torch.int32), (Group(lengths, tables),), caches,
    )  # fmt: skip


def cache_of(s: Heads) -> dict[str, Tensor]:
    """Full of what must never be looked at: no numbers, and as bytes scales that are none."""
    shape = (PAGES, 2, s.kv_heads, s.page, cache_width(s.cache, s.head_dim))
    return {"layer": torch.full(shape, -1 if s.cache == torch.int8 else float("nan"), dtype=s.cache)}


def program(engine: Engine, s: Heads) -> Program:
    p = Program(engine, ((s.heads + 2 * s.kv_heads) * s.head_dim, s.heads * s.head_dim))
    p.attention("layer", 0, 1, s)
    return p


def attend(p: Program, s: Heads, qkv: Tensor, f: Step) -> Tensor:
    out = torch.empty(len(qkv), s.heads * s.head_dim)
    p.run(len(qkv), {0: qkv.clone(), 1: out}, f)
    return out


def held(x: Tensor, cache: torch.dtype) -> Tensor:
    """What a cache holds of x [..., head_dim], in float64: int8 has one scale a position and head."""
    if cache != torch.int8:
        return x.to(cache).double()
    top = x.abs().amax(-1, keepdim=True)
    codes = (x * torch.where(top > 0, 127 / top, 0.0)).round()
    return codes.double() * (top / 127).double()


def reference(s: Heads, qkv: Tensor, pairs: bool = False) -> Tensor:
    """All positions of one row at once, in float64 over keys and values as the cache holds them;
    `pairs`: with queries in bfloat16."""
    n = len(qkv)
    q, k, v = qkv.view(n, -1, s.head_dim).split([s.heads, s.kv_heads, s.kv_heads], 1)
    k, v = (held(t, s.cache).repeat_interleave(s.heads // s.kv_heads, 1) for t in (k, v))
    q = (q * s.scale).bfloat16().double() if pairs else q.double() * s.scale
    scores = torch.einsum("qhd,khd->hqk", q, k)
    if s.softcap:
        scores = s.softcap * torch.tanh(scores / s.softcap)
    distance = torch.arange(n)[:, None] - torch.arange(n)
    hidden = (distance < 0) | (distance >= s.window) if s.window else distance < 0
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v).flatten(1).float()


FLOATS = [
    Heads(9, 3, 64, 16, torch.bfloat16, 64**-0.5),
    Heads(9, 3, 64, 16, torch.float32, 64**-0.5),
    Heads(4, 4, 16, 32, torch.bfloat16, 0.3),
    Heads(8, 1, 80, 48, torch.float32, 0.1, window=33),
    Heads(6, 2, 128, 16, torch.bfloat16, 0.1, window=100, softcap=5.0),
    Heads(32, 2, 32, 64, torch.bfloat16, 0.2),
    Heads(48, 1, 48, 16, torch.float32, 0.2, softcap=30.0),
]
BYTES = [
    Heads(9, 3, 64, 16, torch.int8, 64**-0.5),
    Heads(2, 2, 16, 32, torch.int8, 0.3),
    Heads(8, 1, 80, 48, torch.int8, 0.1, window=33),
    Heads(5, 1, 96, 16, torch.int8, 0.1, softcap=30.0),
    Heads(6, 2, 128, 16, torch.int8, 0.1, window=100, softcap=5.0),
    Heads(14, 2, 256, 64, torch.int8, 0.06),
    Heads(48, 1, 512, 16, torch.int8, 0.04, window=7),
]
GRID = [*FLOATS, *BYTES]


def in_pairs(engine: Engine, s: Heads) -> bool:
    """Whether this level multiplies pairs of bfloat16, for which it rounds queries and probabilities."""
    return engine.level == "avx512_bf16" and s.cache == torch.bfloat16


def data(s: Heads, n: int) -> Tensor:
    return torch.randn(n, (s.heads + 2 * s.kv_heads) * s.head_dim, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize("s", GRID)
def test_equals_reference(engine: Engine, s: Heads) -> None:
    p = program(engine, s)
    for n in (1, 17, 64, 150):
        pages = torch.randperm(PAGES, generator=torch.Generator().manual_seed(n))[: -(-n // s.page)].int()
        qkv = data(s, n)
        got = attend(p, s, qkv, step([(0, n, pages)], cache_of(s)))
        # int8: queries and weighted probabilities are rounded to 15 bits on the way
        tolerance = dict(rtol=1e-3, atol=2e-4) if s.cache == torch.int8 else dict(rtol=1e-4, atol=1e-5)
        if in_pairs(engine, s):  # half a bit in 8 of each probability at most, of a sum of them less
            tolerance = dict(rtol=2e-3, atol=6e-3)
            assert off(got, reference(s, qkv, pairs=True)) < 2e-3
        torch.testing.assert_close(got, reference(s, qkv, in_pairs(engine, s)), **tolerance)


@pytest.mark.parametrize("s", [s for s in FLOATS if s.cache == torch.bfloat16])
def test_pairs_are_as_close_as_torch_in_bfloat16(engine: Engine, s: Heads) -> None:
    """Of what a model in bfloat16 loses in its attention anyway, rounding on the way is no more."""
    n = 150
    qkv, pages = data(s, n), torch.randperm(PAGES)[: -(-n // s.page)].int()
    want = reference(s, qkv)
    q, k, v = qkv.bfloat16().view(n, -1, s.head_dim).split([s.heads, s.kv_heads, s.kv_heads], 1)
    distance = torch.arange(n)[:, None] - torch.arange(n)
    seen = (distance >= 0) & (distance < s.window) if s.window else distance >= 0
    if s.softcap:
        scores = torch.einsum("qhd,khd->hqk", q * s.scale, k.repeat_interleave(s.heads // s.kv_heads, 1))
        scores = (s.softcap * torch.tanh(scores / s.softcap)).masked_fill(~seen, float("-inf"))
        theirs = torch.einsum(
            "hqk,khd->qhd", scores.softmax(-1), v.repeat_interleave(s.heads // s.kv_heads, 1)
        )
    else:
        theirs = torch.nn.functional.scaled_dot_product_attention(
            *(t.transpose(0, 1)[None] for t in (q, k, v)), attn_mask=seen, scale=s.scale, enable_gqa=True
        )[0].transpose(0, 1)
    got = attend(program(engine, s), s, qkv, step([(0, n, pages)], cache_of(s)))
    assert off(got, want) < off(theirs.flatten(1), want)


@pytest.mark.parametrize("s", [*FLOATS[:6], *BYTES])
@pytest.mark.parametrize("cut", [1, 7, 16, 96])
def test_bits_do_not_depend_on_the_cut(engine: Engine, s: Heads, cut: int) -> None:
    p, n = program(engine, s), 130
    pages = torch.randperm(PAGES, generator=torch.Generator().manual_seed(5))[: -(-n // s.page)].int()
    qkv = data(s, n)
    whole = attend(p, s, qkv, step([(0, n, pages)], cache_of(s)))
    caches = cache_of(s)
    parts = []
    for start in range(0, n, cut):
        count = min(cut, n - start)
        parts.append(attend(p, s, qkv[start : start + count], step([(start, count, pages)], caches)))
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("s", [FLOATS[0], *BYTES[:5]])
def test_bits_do_not_depend_on_company(engine: Engine, s: Heads) -> None:
    n = 40
    p, pages = program(engine, s), torch.arange(1, 4).int()
    qkv = data(s, n)
    alone = attend(p, s, qkv, step([(0, n, pages)], cache_of(s)))
    caches = cache_of(s)
    others = [(0, 1 + i % 3, torch.tensor([10 + i], dtype=torch.int32)) for i in range(31)]
    rows = [*others[:15], (0, n, pages), *others[15:]]
    before, after = sum(c for _, c, _ in others[:15]), sum(c for _, c, _ in others[15:])
    mixed = torch.cat((data(s, before), qkv, data(s, after)))
    assert torch.equal(attend(p, s, mixed, step(rows, caches))[before : before + n], alone)
    # and as one of 32 rows with a token each
    nxt = data(s, 32)
    if s.cache != torch.int8:
        caches["layer"].nan_to_num_(0.0)
    single = step([(n, 1, pages)], {"layer": caches["layer"].clone()})
    lone = attend(p, s, nxt[5:6], single)
    rows = [(3, 1, torch.tensor([20 + i], dtype=torch.int32)) for i in range(32)]
    rows[5] = (n, 1, pages)
    assert torch.equal(attend(p, s, nxt, step(rows, caches))[5:6], lone)


@pytest.mark.parametrize("s", [s._replace(window=0) for s in BYTES[:6]])
def test_bytes_stay_close_to_the_exact_cache(engine: Engine, s: Heads) -> None:
    """Half a code in 127 of a position's largest key or value: 1 % of the output where all of it is
    random, the worst there is for a scale that is shared by a head."""
    n = 150
    qkv, pages = data(s, n), torch.arange(1, 1 + -(-n // s.page)).int()
    got = attend(program(engine, s), s, qkv, step([(0, n, pages)], cache_of(s)))
    want = reference(s._replace(cache=torch.float32), qkv)
    assert 1e-4 < off(got, want) < 0.015


def test_bytes_of_extremes(engine: Engine) -> None:
    """Nothing, very little and very much have scales; what is no number says so, to its own row."""
    s = Heads(3, 1, 16, 16, torch.int8, 0.25)
    for factor in (0.0, 1e-20, 1e18):
        qkv = data(s, 20)
        qkv[:, 48:] *= factor
        qkv[:, :48] /= max(factor, 1.0)
        got = attend(program(engine, s), s, qkv, step([(0, 20, torch.tensor([3, 4]).int())], cache_of(s)))
        assert (got - reference(s, qkv)).abs().max() <= 1e-3 * factor
    bad = data(s, 20)
    bad[11] = float("nan")
    got = attend(program(engine, s), s, bad, step([(0, 20, torch.tensor([3, 4]).int())], cache_of(s)))
    assert got[11:].isnan().all() and not got[:11].isnan().any()


def test_a_copied_page_brings_its_scales(engine: Engine) -> None:
    s, spec = BYTES[0], CacheSpec("layer", 3, 64)
    layout = lay_out([spec], NativeAttention(engine, torch.int8, s.page), s.page, torch.int8)
    assert layout.page_bytes == 2 * 3 * 16 * (64 + 4)  # as bfloat16: 2 * 3 * 16 * 128
    caches = Caches(layout, PAGES, torch.int8, torch.device("cpu"))
    p, pages, others = program(engine, s), torch.tensor([7, 3]).int(), torch.tensor([7, 9]).int()
    attend(p, s, data(s, 20), step([(0, 20, pages)], caches.tensors))
    caches.copy([Copy(1, "cow", 0, 3, 9)])
    qkv = data(s, 1)
    want = attend(p, s, qkv, step([(20, 1, pages)], caches.tensors))
    assert torch.equal(attend(p, s, qkv, step([(20, 1, others)], caches.tensors)), want)
    caches.close()
