"""What the other tests here rely on: inputs of a seed come again, and memory is poisoned."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.fresh import number, sow


def test_inputs_are_new_for_every_test_and_come_again_with_the_seed():
    drawn = []
    for seed, name in ((5, "a"), (5, "b"), (6, "a"), (5, "a")):
        sow(seed, name)
        drawn.append((number(), *torch.randn(3).tolist()))
    assert drawn[0] == drawn[3] and len(set(drawn)) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_numbers_that_nobody_wrote_are_none(dtype, device):
    like = torch.zeros(3, 5, device=device, dtype=dtype)
    for made in (torch.empty(3, 5, dtype=dtype, device=device), torch.empty_like(like), like.new_empty(3, 5)):
        assert made.float().isnan().all() and made.shape == like.shape


def test_integers_that_nobody_wrote_lead_nowhere(device):
    assert (torch.empty(4, dtype=torch.int32, device=device) > 1 << 29).all()
    assert torch.empty(4, dtype=torch.bool, device=device).all() and torch.empty(0).shape == (0,)
