"""The backend as a model drives it, against the oracle: prompts, then decoding, chunks, shared pages."""

from __future__ import annotations

import pytest
import torch

from octavo.attention.torch_ref import TorchRef
from octavo.nn.forward import Forward, GroupInputs, HostBounds
from octavo.nn.protocols import AttnLayer, CacheSpec, Heads
from octavo.ops.rope import rope_angles
from tests.kernels.fresh import number

PAGE, PAGES, SLOTS = 16, 40, 6


@pytest.fixture(autouse=True)
def heads_enter_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter too, where an op would take its reference."""
    from octavo.ops.triton.enter import entered

    monkeypatch.setattr("octavo.attention.triton.enter", entered)


def turns(n: int, d: int, device: str) -> torch.Tensor:
    """Angles [n, 2, 1, d] of random positions: their halves belong together, as kernels rely on."""
    inverse = 10000.0 ** -(torch.arange(0, d, 2) / d)
    return rope_angles.reference(torch.randint(100_000, (n,)), inverse, 1.0, torch.float32).to(device)


class Driven:
    """One layer of one backend with a cache of its own."""

    def __init__(self, backend, spec: CacheSpec, device: str) -> None:
        self.backend, self.spec, self.device = backend, spec, device
        self.cache = torch.zeros(backend.layout(spec, PAGES, PAGE), device=device)

    def step(self, rows, tables, qkv, angles, heads, layer, pad: int, shared: int = 0):
        """rows: (slot, count, length after). The oracle takes tables row by row and no padding."""
        plain = isinstance(self.backend, TorchRef)
        pad = 0 if plain else pad
        n = sum(count for _, count, _ in rows)
        owners = [slot for slot, _, _ in rows] + [0] * pad
        starts = torch.tensor([0, *(count for _, count, _ in rows), *[0] * pad]).cumsum(0)
        places = [
            int(tables[slot, at // PAGE]) * PAGE + at % PAGE
            for slot, count, length in rows
            for at in range(length - count, length)
        ]

        def ints(values, kind=torch.int32):
            return torch.as_tensor(values).to(self.device, kind)

        inputs = GroupInputs(
            ints([length for _, _, length in rows] + [0] * pad),
            ints(tables[owners] if plain else tables),
            ints(places + [0] * pad, torch.int64),
        )
        many = ints([0] * (n + pad), torch.int64)
        f = Forward(
            many, many, ints(starts), many, (inputs,), {"layer": self.cache},
            HostBounds(len(owners), n + pad, max(c for _, c, _ in rows), int(inputs.lengths.max()), shared),
            owners=None if plain else ints(owners), shared=ints([shared]),
        )  # fmt: skip
        meta = self.backend.plan(self.spec, f.bounds)
        self.backend.prepare(f, meta)
        q, k, v = self.backend.enter(qkv[: n + pad], angles[: n + pad], heads, self.cache, meta, layer)
        return self.backend.run(q, k, v, self.cache, meta, layer)[:n]


STEPS = (
    [(0, 5, 5), (1, 20, 20), (2, 33, 33)],
    [(0, 1, 6), (1, 1, 21), (2, 1, 34), (4, 17, 17)],
    [(1, 1, 22), (2, 1, 35), (4, 8, 25)],
    [(4, 1, 26), (1, 1, 23)],
    [(1, 1, 24), (4, 1, 27)],
    [(4, 5, 32), (1, 1, 25)],
)


@pytest.mark.parametrize("window", [0, 9])
@pytest.mark.parametrize("norm", [True, False])
def test_steps_equal_the_oracle(device, window, norm):
    from octavo.attention.triton import TritonAttention

    d, heads, kv_heads = 32, 4, 2
    spec = CacheSpec("layer", kv_heads, d, "window" if window else "full", window)
    weights = [torch.rand(d, device=device) + 0.5 if norm else None for _ in range(2)]
    split = Heads(heads, kv_heads, d, *weights, 1e-6)
    ours, oracle = TritonAttention(), TorchRef()
    ours.reserve(SLOTS, torch.device(device))
    driven = [Driven(b, spec, device) for b in (ours, oracle)]
    tables = torch.zeros(SLOTS, 4, dtype=torch.int32)
    tables[[0, 1, 2, 4]] = torch.randperm(PAGES - 1)[:16].view(4, 4).int() + 1
    layer = AttnLayer(d**-0.5, window)
    for rows in STEPS:
        qkv = torch.randn(80, (heads + 2 * kv_heads) * d, device=device)
        angles = turns(80, d, device)
        got, want = (each.step(rows, tables, qkv, angles, split, layer, pad=3) for each in driven)
        torch.testing.assert_close(got, want, atol=2e-5, rtol=2e-5)


def test_shared_pages_are_read_once_for_all(device):
    from octavo.attention.triton import TritonAttention

    d, heads, kv_heads = 32, 4, 2
    spec, split = CacheSpec("layer", kv_heads, d), Heads(heads, kv_heads, d)
    driven = [Driven(b, spec, device) for b in (TritonAttention(), TorchRef())]
    tables = torch.tensor([[1, 2, 3, 4], [1, 2, 5, 6], [1, 2, 7, 8]], dtype=torch.int32)
    layer = AttnLayer(d**-0.5)
    steps = (
        ([(0, 40, 40)], 0),
        ([(0, 1, 41), (1, 7, 39), (2, 5, 37)], 0),
        ([(1, 1, 40), (2, 1, 38), (0, 1, 42)], 2),
    )
    for rows, shared in steps:
        qkv = torch.randn(60, (heads + 2 * kv_heads) * d, device=device)
        angles = turns(60, d, device)
        got, want = (each.step(rows, tables, qkv, angles, split, layer, 2, shared) for each in driven)
        torch.testing.assert_close(got, want, atol=2e-5, rtol=2e-5)


def test_given_keys_are_stored(device):
    from octavo.attention.triton import TritonAttention

    spec = CacheSpec("layer", 2, 32)
    driven = Driven(TritonAttention(), spec, device)
    places = torch.tensor([17, 3 * PAGE], device=device)
    f = Forward(
        places, places, torch.tensor([0, 1, 2], dtype=torch.int32, device=device), places,
        (GroupInputs(torch.tensor([2, 1], dtype=torch.int32, device=device),
                     torch.tensor([[1], [3]], dtype=torch.int32, device=device), places),),
        {"layer": driven.cache}, HostBounds(2, 2, 1, 2),
    )  # fmt: skip
    meta = driven.backend.plan(spec, f.bounds)
    driven.backend.prepare(f, meta)
    q, k, v = (torch.randn(2, heads, 32, device=device) for heads in (4, 2, 2))
    out = driven.backend.run(q, k, v, driven.cache, meta, AttnLayer(1.0))
    torch.testing.assert_close(driven.cache[1, :, 0, 1], k[0])
    torch.testing.assert_close(out[1].view(4, 32), v[1].repeat_interleave(2, 0))  # it sees nothing but itself


@pytest.mark.gpu
def test_whole_prompts_are_the_same_with_and_without_pages(device):
    """On Hopper prompts that begin with the step take another kernel, beside chunks of others."""
    from octavo.attention.triton import TritonAttention

    d, heads, kv_heads, counts, before = 64, 4, 2, (600, 3, 513), (0, 40, 0)
    ends = [c + b for c, b in zip(counts, before, strict=True)]
    n, pages = sum(counts), [-(-end // PAGE) for end in ends]
    spec, split, layer = CacheSpec("layer", kv_heads, d), Heads(heads, kv_heads, d), AttnLayer(d**-0.5)
    starts = torch.tensor([0, *counts], device=device).cumsum(0)
    tables = torch.zeros(3, max(pages), dtype=torch.int32, device=device)
    at = torch.cat([torch.arange(b, e, device=device) for b, e in zip(before, ends, strict=True)])
    rows = torch.repeat_interleave(torch.arange(3, device=device), torch.tensor(counts, device=device))
    for row, many in enumerate(pages):
        tables[row, :many] = 1 + sum(pages[:row]) + torch.arange(many, device=device)
    slots = tables[rows, at // PAGE].long() * PAGE + at % PAGE
    lengths = torch.tensor(ends, dtype=torch.int32, device=device)
    qkv = torch.randn(n, (heads + 2 * kv_heads) * d, device=device, dtype=torch.bfloat16)
    angles = turns(n, d, device)
    got, same = [], number()
    for fresh in (True, False):
        backend = TritonAttention()
        cache = torch.zeros(backend.layout(spec, 1 + sum(pages), PAGE), device=device, dtype=torch.bfloat16)
        cache.uniform_(-1, 1, generator=torch.Generator(device).manual_seed(same))
        f = Forward(
            at, at, starts.int(), at, (GroupInputs(lengths, tables, slots),), {"layer": cache},
            HostBounds(3, n, 600, 600, fresh=fresh),
        )  # fmt: skip
        meta = backend.plan(spec, f.bounds)
        backend.prepare(f, meta)
        entered = backend.enter(qkv.clone(), angles, split, cache, meta, layer)
        got.append(backend.run(*entered, cache, meta, layer).float())
    torch.testing.assert_close(*got, atol=3e-2, rtol=3e-2)
