"""Rotary position embedding, the variant that rotates halves ("neox")."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.ops.op import op


@op
def rope_angles(positions: Tensor, inverse: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """positions [n] int64, inverse [d / 2] float32 -> [n, 2, 1, d]: (cos, signed sin) of each.

    Computed in float32, then cast; the first half of sin is negated. `scale` multiplies both.
    """
    angles = positions.float()[:, None] * inverse
    cos, sin = angles.cos() * scale, angles.sin() * scale
    both = torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)), 1)
    return both.to(dtype).unsqueeze(2)


@op
def rope(x: Tensor, angles: Tensor) -> Tensor:
    """x [n, heads, head_dim], angles [n, 2, 1, d] with d <= head_dim -> rotated copy of x.

    The first half of sin is negated, so rotating a half turn is a roll:
    (a, b) -> (a cos - b sin, b cos + a sin). Dimensions past d are left alone. Wider angles
    than x make for wider arithmetic, not for a wider result.
    """
    d = angles.shape[-1]
    part = x[..., :d]
    turned = torch.cat((part[..., d // 2 :], part[..., : d // 2]), -1)
    out = torch.addcmul(part * angles[:, 0], turned, angles[:, 1]).to(x.dtype)
    return out if d == x.shape[-1] else torch.cat((out, x[..., d:]), -1)
