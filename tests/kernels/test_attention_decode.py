"""The decode kernel and its work list against the definition, poison around every row."""

from __future__ import annotations

import pytest

from tests.kernels.attention_case import DECODED, Case


def run(case: Case, programs: int, **config):
    from octavo.ops.triton.attention_decode import DecodeConfig, Workspace, decode
    from octavo.ops.triton.attention_work import make_work

    settings = DecodeConfig(**{"block": 16, **config})
    case.build()
    items = make_work(
        case.lengths, case.row_start, case.owners, None, programs=programs, block=settings.block, page=case.page,
        window=case.window, extra=settings.extra, least=settings.least,
    )  # fmt: skip
    space = Workspace.make(programs, len(case.owners), case.heads, case.d, case.q.device)
    space.parts.fill_(float("nan"))
    for _ in range(2):  # the counters are clean for the next layer
        case.out.fill_(float("nan"))
        decode(
            case.q, case.k, case.v, case.out, case.tables, case.row_start, items, space, settings,
            programs=programs, scale=case.scale, softcap=case.softcap, k_scale=case.k_scale, v_scale=case.v_scale,
        )  # fmt: skip
        mask = case.decoded()
        assert case.check(case.out[mask], case.expected()[mask]) <= 1
    assert not space.counters.any()
    assert case.out[~mask].isnan().all()
    return items


def run_few(case: Case, aim: int, **config) -> None:
    """The kernel for few rows, twice: the counters are clean for the next layer."""
    from octavo.ops.triton.attention_decode import Workspace
    from octavo.ops.triton.attention_direct import DirectConfig, decode_few

    case.build()
    most = aim + len(case.owners)
    space = Workspace.make(most, len(case.owners), case.heads, case.d, case.q.device)
    space.parts.fill_(float("nan"))
    for _ in range(2):
        case.out.fill_(float("nan"))
        decode_few(
            case.q, case.k, case.v, case.out, case.tables, case.owners, case.lengths, case.row_start, space,
            DirectConfig(**{"block": 16, **config}), programs=(aim, most), scale=case.scale, window=case.window,
            softcap=case.softcap, k_scale=case.k_scale, v_scale=case.v_scale,
        )  # fmt: skip
        mask = case.decoded()
        assert case.check(case.out[mask], case.expected()[mask]) <= 1
    assert not space.counters.any()
    assert case.out[~mask].isnan().all()


ROWS = {
    "one": [(1, 37)],
    "first": [(1, 1)],
    "mixed lengths": [(1, 5), (1, 100), (1, 16), (1, 33), (1, 1)],
    "one long": [(1, 3), (1, 400), (1, 2)],
    "with prefill and done rows": [(1, 20), (0, 0), (1, 90), (7, 7), (3, 50)],
    "nothing": [(0, 0)],
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize(("programs", "fused"), [(1, True), (7, True), (4, False)])
def test_decode(device, rows, programs, fused):
    run(Case(rows, device=device), programs, fused=fused)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize(("aim", "least"), [(1, 1), (7, 1), (40, 3)])
def test_few_rows(device, rows, aim, least):
    run_few(Case(rows, device=device), aim, least=least)


@pytest.mark.parametrize("shape", DECODED, ids=str)
def test_decode_options(device, shape):
    run(Case(ROWS["mixed lengths"], device=device, **shape), 3)


@pytest.mark.parametrize("shape", DECODED, ids=str)
def test_few_rows_with_options(device, shape):
    run_few(Case(ROWS["mixed lengths"], device=device, **shape), 5)
