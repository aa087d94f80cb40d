"""Shared pages read once, and the rest of every row after them."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.attention_case import Case


def run(case: Case, programs: int, **config) -> None:
    from octavo.ops.triton.attention_decode import DecodeConfig, Workspace, decode
    from octavo.ops.triton.attention_prefix import PrefixConfig, shared_prefix
    from octavo.ops.triton.attention_work import make_work

    settings = DecodeConfig(block=16)
    case.build()
    items = make_work(
        case.lengths,
        case.row_start,
        case.owners,
        case.shared_pages,
        programs=programs,
        block=16,
        page=case.page,
    )
    space = Workspace.make(programs, len(case.owners), case.heads, case.d, case.q.device)
    scales = {"scale": case.scale, "softcap": case.softcap, "k_scale": case.k_scale, "v_scale": case.v_scale}
    prefix = shared_prefix(
        case.q, case.k, case.v, case.tables, case.owners, case.row_start, case.shared_pages,
        PrefixConfig(**{"tile": 16, "block": 32, **config}), **scales,
    )  # fmt: skip
    decode(
        case.q, case.k, case.v, case.out, case.tables, case.row_start, items, space, settings, programs=programs,
        prefix=prefix, **scales,
    )  # fmt: skip
    mask = case.decoded()
    assert case.check(case.out[mask], case.expected()[mask]) <= 1


ROWS = [(1, 70), (1, 67), (0, 0), (1, 100), (1, 200), (1, 65), (5, 90)]


@pytest.mark.parametrize(("shared", "splits", "programs"), [(0, 2, 5), (1, 1, 1), (3, 3, 5), (4, 2, 1)])
def test_prefix(device, shared, splits, programs):
    run(Case(ROWS, shared=shared, device=device), programs, splits=splits)


@pytest.mark.parametrize(
    "shape",
    [
        {"heads": 6, "kv_heads": 2, "d": 80},
        {"heads": 20, "kv_heads": 1, "softcap": 3.0},
        {"dtype": torch.bfloat16},
        {"dtype": torch.bfloat16, "cache_dtype": torch.float8_e4m3fn, "k_scale": 0.5, "v_scale": 2.0},
    ],
    ids=str,
)
def test_prefix_options(device, shape):
    run(Case(ROWS, shared=3, device=device, **shape), 3)
