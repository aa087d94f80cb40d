"""Small ops that only move or add: they exist so that a recorded step misses nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.ops.op import op


@op
def embedding(tokens: Tensor, weight: Tensor) -> Tensor:
    """tokens [n] int64, weight [vocab, d] -> [n, d]."""
    return torch.index_select(weight, 0, tokens)


@op
def gather_rows(x: Tensor, rows: Tensor) -> Tensor:
    """x [n, d], rows [m] int64 -> [m, d]."""
    return torch.index_select(x, 0, rows)


@op
def split(x: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    """x [n, sum(sizes)] -> views [n, size]."""
    return torch.split(x, sizes, -1)


@op
def heads(x: Tensor, head_dim: int) -> Tensor:
    """x [n, h * head_dim] -> view [n, h, head_dim]."""
    return x.view(x.shape[0], -1, head_dim)


@op
def add(x: Tensor, y: Tensor) -> Tensor:
    """Elementwise, of equal shape."""
    return x + y
