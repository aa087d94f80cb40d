"""Entry and attention in one launch: what is stored is what enter stores, and what is attended to."""

from __future__ import annotations

import inspect

import pytest
import torch

from octavo.ops.enter import enter
from octavo.ops.rope import rope_angles
from tests.kernels import attention_case
from tests.kernels.attention_case import FP8, Case
from tests.kernels.test_small import near


def inputs(case: Case, norm: bool, turning: int):
    """(qkv, angles, gains) of the case's rows, padding included."""
    n, d = case.q.shape[0], case.d
    qkv = torch.randn(n, (case.heads + 2 * case.kv_heads) * d).to(case.device, case.dtype)
    gains = [(torch.rand(d) + 0.5).to(case.device, case.dtype) if norm else None for _ in range(2)]
    inverse = 10000.0 ** -(torch.arange(0, turning, 2) / turning)
    at = torch.zeros(n, dtype=torch.int64)
    lengths = [length for count, length in case.rows if count]
    at[: len(lengths)] = torch.tensor(lengths, dtype=torch.int64) - 1
    return qkv, rope_angles.reference(at, inverse, 1.0, torch.float32).to(case.device), gains


def expected(case: Case, qkv, angles, gains):
    """As enter's reference in float64: queries as they are rounded, keys and values as they are stored."""
    wide = torch.float32 if case.dtype == torch.float32 else torch.float64
    keys, values = (torch.zeros(t.shape, dtype=wide, device=case.device) for t in (case.k, case.v))
    if case.cache_dtype == FP8:
        keys, values = keys.to(FP8), values.to(FP8)
    q = enter.reference(
        qkv.to(wide), angles, *(None if g is None else g.to(wide) for g in gains), 1e-6, case.heads,
        case.kv_heads, keys, values, case.slots(), case.k_scale, case.v_scale,
    )  # fmt: skip
    return q.to(case.dtype), keys, values


def run(case: Case, aim: int, norm: bool = False, turning: int = 0, **config) -> None:
    from octavo.ops.triton.attention_decode import Workspace
    from octavo.ops.triton.attention_entry import Entry, EntryConfig, enter_few

    case.build()
    qkv, angles, gains = inputs(case, norm, turning or case.d)
    case.q, keys, values = expected(case, qkv, angles, gains)
    live = int(case.row_start[-1])
    slots = case.slots()[:live]
    new = slots // case.page, slots % case.page
    most = aim + len(case.owners)
    space = Workspace.make(most, len(case.owners), case.heads, case.d, case.q.device)
    space.parts.fill_(float("nan"))
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[case.cache.element_size()]
    for _ in range(2):  # the counters are clean for the next layer
        case.out.fill_(float("nan"))
        for view in (case.k, case.v):
            view.view(bits)[new] = torch.tensor(float("nan")).to(view.dtype).view(bits).item()
        before = case.cache.clone()
        enter_few(
            Entry(qkv, angles, *gains, 1e-6, case.heads), case.k, case.v, case.out, case.tables, case.owners,
            case.lengths, case.row_start, space, EntryConfig(**{"block": 16, **config}), programs=(aim, most),
            scale=case.scale, window=case.window, softcap=case.softcap, k_scale=case.k_scale, v_scale=case.v_scale,
        )  # fmt: skip
        for view, want in ((case.k, keys), (case.v, values)):
            if live:
                stored(view[new], want[new], case)
        assert case.check(case.out, case.expected()) <= 1
        for view, old in ((case.k, before[:, :, 0]), (case.v, before[:, :, 1])):
            view.view(bits)[new] = old.transpose(1, 2).view(bits)[new]
        assert torch.equal(case.cache.view(bits), before.view(bits)), "nothing else is written"
    assert not space.counters.any()


def stored(got, want, case: Case) -> None:
    got, want = got.float(), want.float()
    if case.cache_dtype == FP8:  # see test_small.py: the interpreter's own cast loses a carry
        off = ((got - want).abs() > want.abs() * 0.15 + 2.0**-9).float().mean()
        assert off < 0.05 if got.device.type == "cpu" else off == 0
    else:
        near(got, want, case.dtype)


ROWS = {
    "one": [(1, 37)],
    "first": [(1, 1)],
    "second": [(1, 2)],
    "a tile and the new one": [(1, 17)],
    "a tile with the new one": [(1, 16)],
    "mixed lengths": [(1, 5), (1, 100), (1, 16), (1, 33), (1, 1)],
    "one long": [(1, 3), (1, 400), (1, 2)],
    "with done rows": [(1, 20), (0, 0), (1, 90), (0, 0), (1, 49)],
    "nothing": [(0, 0)],
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize(("aim", "least", "ahead"), [(1, 1, 1), (7, 1, 0)])
def test_rows(device, rows, aim, least, ahead):
    run(Case(rows, device=device), aim, least=least, ahead=ahead)


def test_parts_of_several_tiles(device):
    run(Case(ROWS["one long"], device=device), 40, least=3, ahead=2)


SHAPES = [
    *attention_case.DECODED,
    {"dtype": torch.bfloat16, "cache_dtype": FP8, "k_scale": 1e-3, "v_scale": 1e-3},  # saturates
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_options(device, shape):
    run(Case(ROWS["mixed lengths"], device=device, **shape), 5, norm=True)


@pytest.mark.parametrize(("d", "turning"), [(64, 32), (80, 64), (96, 40)])
@pytest.mark.parametrize("norm", [False, True])
def test_heads_that_turn_in_part(device, d, turning, norm):
    run(Case(ROWS["mixed lengths"], d=d, device=device), 5, norm, turning)


def test_a_step_has_its_gate():
    """The kernel reads old keys before its wait: launch.py says what must have waited before it."""
    from octavo.ops.triton.rope import angles_kernel

    source = inspect.getsource(angles_kernel.fn)
    assert 0 < source.index("wait(EARLY)") < source.index("start_next(EARLY)")
