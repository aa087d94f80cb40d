"""Every backend of CPUs equals torch_ref over a grid of shapes, batches, windows and dtypes."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from octavo.attention import flashinfer
from octavo.attention.choose import BACKENDS, choose_attention
from octavo.attention.torch_ref import TorchRef
from octavo.core.errors import Unsupported
from octavo.core.facts import Platform
from octavo.nn.attention import cache_groups, prepare
from octavo.nn.forward import Forward, GroupInputs, HostBounds
from octavo.nn.protocols import AttentionBackend, AttnLayer, CacheSpec

CPU = Platform(kind="cpu", name="test", cores=1, memory_total=1, memory_free=1)
GPU = Platform(kind="cuda", name="test", cores=1, memory_total=1, memory_free=1, features=("sm90",))
OLD = Platform(kind="cuda", name="test", cores=1, memory_total=1, memory_free=1, features=("sm75",))
ON_GPUS = ("triton", "flashinfer")  # tests/kernels
OTHERS = [name for name in BACKENDS if name not in ("torch_ref", *ON_GPUS)]

# (context before, new tokens) of every row
BATCHES = {
    "one decode": [(37, 1)],
    "decodes": [(37, 1), (5, 1), (0, 1), (600, 1), (599, 1), (16, 1), (15, 1)],
    "one prompt": [(0, 33)],
    "chunk": [(21, 12)],
    "mixed": [(40, 1), (0, 9), (7, 1), (13, 2), (300, 1), (64, 17)],
    "empty rows": [(0, 0), (40, 1), (8, 0), (3, 4), (9, 0), (12, 1), (1, 0)],
    "only empty rows": [(0, 0), (5, 0)],
}


def run(
    backend: AttentionBackend,
    batch: list[tuple[int, int]],
    spec: CacheSpec,
    heads: int,
    page: int,
    dtype: torch.dtype,
    cache_dtype: torch.dtype,
    poison: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The output [n, heads * d] and the cache, from the same seed whatever the backend."""
    torch.manual_seed(1)
    chance = random.Random(4)
    pages = 1 + sum(-(-(before + new) // page) + 1 for before, new in batch)
    cache = torch.randn(backend.layout(spec, pages, page)).to(cache_dtype)
    free = list(range(1, pages))
    chance.shuffle(free)
    starts, lengths, positions, slots, tables = [0], [], [], [], []
    for before, new in batch:
        table = [free.pop() for _ in range(-(-(before + new) // page))]
        gone = max(0, before - spec.window + 1) // page if spec.window else 0
        table[:gone] = [0] * min(gone, len(table))  # pages behind the window are given back
        tables.append(table)
        starts.append(starts[-1] + new)
        lengths.append(before + new)
        positions += range(before, before + new)
        slots += [table[p // page] * page + p % page for p in range(before, before + new)]
    if poison:
        cache[[0, *free]] = poison
    wide = max(map(len, tables))
    inputs = GroupInputs(
        lengths=torch.tensor(lengths, dtype=torch.int32),
        tables=torch.tensor([t + [0] * (wide - len(t)) for t in tables], dtype=torch.int32),
        slots=torch.tensor(slots, dtype=torch.int64),
    )
    n = starts[-1]
    f = Forward(
        tokens=torch.zeros(n, dtype=torch.int64),
        positions=torch.tensor(positions, dtype=torch.int64),
        row_start=torch.tensor(starts, dtype=torch.int32),
        logits_at=torch.zeros(0, dtype=torch.int64),
        groups=(inputs,),
        caches={spec.name: cache},
        bounds=HostBounds(len(batch), n, max(new for _, new in batch), max(lengths)),
    )
    prepare(backend, (spec,), f)
    qkv = torch.randn(n, heads + 2 * spec.kv_heads, spec.head_dim).to(
        dtype
    )  # views, as a model hands them over
    q, k, v = qkv.split([heads, spec.kv_heads, spec.kv_heads], 1)
    return backend.run(q, k, v, cache, f.meta[0], AttnLayer(0.3, spec.window)), cache


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("batch", list(BATCHES))
@pytest.mark.parametrize("window", [0, 1, 5, 64])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(6, 2, 8), (4, 4, 16), (5, 1, 64)])
def test_equals_the_oracle(name: str, batch: str, window: int, heads: int, kv_heads: int, dim: int) -> None:
    spec = CacheSpec("a", kv_heads, dim, "window" if window else "full", window)
    for page in (1, 4, 16):
        args = (BATCHES[batch], spec, heads, page, torch.float32, torch.float32)
        wanted, kept = run(TorchRef(), *args)
        got, cache = run(BACKENDS[name](), *args)
        assert got.shape == wanted.shape
        torch.testing.assert_close(got, wanted, atol=2e-5, rtol=2e-5)
        assert torch.equal(cache, kept)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(
    ("dtype", "cache_dtype"),
    [(torch.bfloat16, torch.bfloat16), (torch.float16, torch.float16), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)],
)  # fmt: skip
@pytest.mark.parametrize("window", [0, 9])
def test_dtypes(name: str, dtype: torch.dtype, cache_dtype: torch.dtype, window: int) -> None:
    spec = CacheSpec("a", 2, 16, "window" if window else "full", window)
    args = (BATCHES["mixed"], spec, 6, 4, dtype, cache_dtype)
    wanted, _ = run(TorchRef(), *args)
    got, _ = run(BACKENDS[name](), *args)
    assert got.dtype == dtype
    torch.testing.assert_close(got, wanted, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("name", [*OTHERS, "torch_ref"])
@pytest.mark.parametrize("window", [0, 5])
def test_never_reads_pages_of_others(name: str, window: int) -> None:
    """Page 0, pages behind the window and pages of nobody may hold anything, even NaN."""
    spec = CacheSpec("a", 2, 8, "window" if window else "full", window)
    args = (BATCHES["mixed"], spec, 4, 4, torch.float32, torch.float32)
    clean, _ = run(BACKENDS[name](), *args)
    dirty, _ = run(BACKENDS[name](), *args, poison=float("nan"))
    assert torch.equal(clean, dirty)


def test_the_choice_says_why_not() -> None:
    specs = (CacheSpec("a", 1, 16),)
    backend, decision = choose_attention(specs, CPU)
    assert (backend.name, decision.value) == ("cpu", "cpu")
    assert choose_attention(specs, GPU)[0].name == "triton"
    backend, decision = choose_attention(specs, OLD)
    assert backend.name == "torch_ref"
    assert "triton: needs compute capability 8.0" in decision.why and "cpu: runs on a CPU" in decision.why
    assert choose_attention(specs, CPU, "torch_ref")[0].name == "torch_ref"
    with pytest.raises(Unsupported, match="cpu: runs on a CPU, not on cuda"):
        choose_attention(specs, GPU, "cpu")
    with pytest.raises(Unsupported, match="known: triton, flashinfer, cpu"):
        choose_attention(specs, CPU, "flash9")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """flashinfer-python, as far as supports() looks."""
    monkeypatch.setattr(flashinfer, "find_spec", lambda name: object())


def why_no_flashinfer(platform: Platform, head: int = 128, *dtypes: torch.dtype) -> str | None:
    return BACKENDS["flashinfer"].supports(CacheSpec("a", 1, head), platform, dtypes)


def test_flashinfer_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flashinfer, "find_spec", lambda name: None)
    assert why_no_flashinfer(CPU) == "runs on a GPU, not on cpu"
    with pytest.raises(Unsupported, match=r"pip install 'octavo\[flashinfer\]'") as caught:
        choose_attention((CacheSpec("a", 1, 128),), GPU, "flashinfer")
    assert caught.value.field == "attention_backend"


@pytest.mark.usefixtures("installed")
def test_flashinfer_says_what_it_cannot() -> None:
    half, brain = torch.float16, torch.bfloat16
    for head in (64, 128, 256):
        assert why_no_flashinfer(GPU, head, brain, brain) is why_no_flashinfer(GPU, head, half, half) is None
    assert why_no_flashinfer(GPU) is None, "asked before dtypes are known"
    assert why_no_flashinfer(GPU, 80) == "head size 80 (64, 128, 256 work)"
    assert (why_no_flashinfer(OLD) or "").startswith("needs compute capability 8.0")
    wrong = why_no_flashinfer(GPU, 128, torch.float32, torch.float32)
    assert wrong == "activations and cache in float32 (bfloat16 or float16, both the same, work)"
    for cache in (torch.float8_e4m3fn, half):
        assert "bfloat16 and " in (why_no_flashinfer(GPU, 128, brain, cache) or "")


def test_head_sizes_below_a_tile_are_refused() -> None:
    assert "multiples of 8, 16 to 256" in str(BACKENDS["triton"].supports(CacheSpec("a", 1, 8), GPU))


def test_flashinfer_comes_first_where_it_was_measured_to_be_faster() -> None:
    measured = flashinfer.FlashInferAttention.measured
    assert measured(CacheSpec("a", 1, 128), GPU)
    assert not measured(CacheSpec("a", 1, 64), GPU) and not measured(CacheSpec("a", 1, 128), OLD)
    assert choose_attention((CacheSpec("a", 1, 128),), GPU)[0].name == "triton", "it is not installed"


def test_groups_in_the_order_of_the_specs() -> None:
    specs = [
        CacheSpec("a", 1, 8, "window", 5, 0),
        CacheSpec("b", 1, 8, group=1),
        CacheSpec("c", 1, 8, "window", 5, 0),
    ]
    groups = cache_groups(specs, 16)
    assert [(g.kind, g.window, g.tokens_per_page) for g in groups] == [("window", 5, 16), ("full", 0, 16)]
    assert len({g.name for g in groups}) == 2
