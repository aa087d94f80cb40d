"""The kernel for prompts and chunks against the definition, poison around every row."""

from __future__ import annotations

import pytest

from tests.kernels.attention_case import SHAPES, Case


def run(case: Case, later: bool = False, **config) -> None:
    from octavo.ops.triton.attention_prefill import PrefillConfig, prefill

    case.build()
    prefill(
        case.q, case.k, case.v, case.out, case.tables, case.owners, case.lengths, case.row_start,
        PrefillConfig(**{"tile": 32, "block": 16, "warps": 4, **config}), tokens=case.q.shape[0], scale=case.scale,
        window=case.window, softcap=case.softcap, k_scale=case.k_scale, v_scale=case.v_scale, later=later,
    )  # fmt: skip
    mask = ~(case.decoded() | case.whole()) if later else ~case.decoded()
    assert case.check(case.out[mask], case.expected()[mask]) <= 1
    assert case.out[~mask].isnan().all()


ROWS = {
    "one": [(37, 37)],
    "two tokens": [(2, 2), (2, 50)],
    "chunks": [(16, 16), (33, 100), (5, 64), (17, 18)],
    "after decoding and done rows": [(1, 20), (1, 7), (0, 0), (40, 40), (3, 90), (0, 0)],
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("block", [16, 32])
def test_prefill(device, rows, block):
    run(Case(rows, device=device), block=block)


@pytest.mark.parametrize("rows", ["two tokens", "chunks", "after decoding and done rows"])
def test_whole_prompts_can_be_left_to_another_kernel(device, rows):
    run(Case(ROWS[rows], device=device), later=True)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_prefill_options(device, shape):
    run(Case(ROWS["chunks"], device=device, **shape))


def test_more_heads_than_a_tile_holds(device):
    run(Case([(5, 20), (3, 3)], heads=40, kv_heads=1, d=16, device=device))
