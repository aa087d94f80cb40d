"""Whole prompts: keys out of the pages, and on a GPU the kernel that reads them one token after another."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.attention_case import Case

ROWS = [(1, 20), (40, 40), (0, 0), (3, 3), (17, 17)]


@pytest.mark.parametrize(
    "shape", [{}, {"d": 80, "page": 32}, {"kv_heads": 1, "dtype": torch.float16}], ids=str
)
def test_keys_are_gathered_in_the_order_of_tokens(device, shape):
    from octavo.ops.triton.attention_gather import gather

    case = Case(ROWS, device=device, **shape).build()
    slots = case.slots()
    got = gather(case.k, slots)
    want = case.k[slots // case.page, slots % case.page].flatten(1)
    torch.testing.assert_close(got, want, atol=0, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("which", range(6))
def test_whole_prompts(device, which):
    from bench.attention_candidates import fresh_candidates
    from bench.attention_check import WHOLE, whole_prompts
    from octavo.ops.triton.launch import gluon_known

    assert len(WHOLE) == 6
    if gluon_known(torch.device(device)):
        for config in fresh_candidates():
            error, clean = whole_prompts(which, config)
            assert error <= 1 and clean
