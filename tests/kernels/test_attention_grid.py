"""The full grid on a GPU: every option at lengths that are cut everywhere, as the bench checks it."""

from __future__ import annotations

import pytest


@pytest.mark.gpu
@pytest.mark.parametrize("which", range(28))
def test_grid(device, which):
    from bench.attention_check import cases, configs_for, error_of

    grid = list(cases())
    assert len(grid) == 28
    case = grid[which]
    want = case.build().expected()
    for configs in configs_for(case, every=False):
        assert error_of(case, want, configs) <= 1, configs
