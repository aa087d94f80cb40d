"""Plain matrices rounded to the two 8-bit formats the kernels multiply."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.ops.cpu.lib import BLOCK

_LARGEST = 127
_LEAST = 1e-30  # a row of zeros has a scale, too


def to_rows(plain: Tensor) -> tuple[Tensor, Tensor]:
    """float [rows, k] -> int8 [rows, k] and float32 scales [rows]: plain is about codes * scale."""
    scales = plain.abs().amax(1).float() / _LARGEST
    codes = plain.float() / scales.clamp_min(_LEAST)[:, None]
    return codes.round_().to(torch.int8), scales


def to_blocks(plain: Tensor) -> Tensor:
    """float [rows, k] -> uint8 [rows, k / 32 * 34], Q8_0: a float16 scale, then 32 codes, a block.

    The codes are those of the scale as it is stored, so that its own rounding costs nothing.
    """
    blocks = plain.float().view(-1, BLOCK)
    scales = (blocks.abs().amax(1, keepdim=True) / _LARGEST).half()
    codes = blocks / scales.float().clamp_min(_LEAST)
    codes = codes.round_().clamp_(-_LARGEST, _LARGEST).to(torch.int8)
    return torch.cat((scales.view(torch.uint8), codes.view(torch.uint8)), 1).view(plain.shape[0], -1)
