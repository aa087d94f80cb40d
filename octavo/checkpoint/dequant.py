"""GGUF's blocks -> float32, exactly as the format defines them.

Each function takes raw blocks [n, bytes] uint8 and fills out [n, elements] float32 (a view of
the destination where possible). Layouts are those of the format's specification; the sums
are done in its order, so that results are bit-equal to any other exact reader's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Dequantise = Callable[[Tensor, Tensor], None]


def _half(raw: Tensor, at: int) -> Tensor:
    """The float16 at byte `at` of every block, as float32 [n, 1]."""
    return raw[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(raw: Tensor) -> Tensor:
    """[n, 16] bytes -> [n, 32]: all low nibbles, then all high ones."""
    return torch.cat((raw & 15, raw >> 4), 1)


def _fields(raw: Tensor, bits: int, count: int) -> Tensor:
    """[n, groups, width] bytes -> [n, groups, count, width]: bit fields, lowest first."""
    shifts = torch.arange(0, bits * count, bits, dtype=torch.uint8).view(count, 1)
    return (raw.unsqueeze(2) >> shifts) & ((1 << bits) - 1)


def _fifth(raw: Tensor) -> Tensor:
    """Four bytes of high bits -> [n, 32] of 0 or 16."""
    return _fields(raw.unsqueeze(2), 1, 8).flatten(1) << 4


def q8_0(raw: Tensor, out: Tensor) -> None:
    torch.mul(raw[:, 2:].view(torch.int8), _half(raw, 0), out=out)


def q4_0(raw: Tensor, out: Tensor) -> None:
    torch.mul(_nibbles(raw[:, 2:]).view(torch.int8) - 8, _half(raw, 0), out=out)


def q4_1(raw: Tensor, out: Tensor) -> None:
    torch.mul(_nibbles(raw[:, 4:]), _half(raw, 0), out=out).add_(_half(raw, 2))


def q5_0(raw: Tensor, out: Tensor) -> None:
    values = (_nibbles(raw[:, 6:]) | _fifth(raw[:, 2:6])).view(torch.int8) - 16
    torch.mul(values, _half(raw, 0), out=out)


def q5_1(raw: Tensor, out: Tensor) -> None:
    values = _nibbles(raw[:, 8:]) | _fifth(raw[:, 4:8])
    torch.mul(values, _half(raw, 0), out=out).add_(_half(raw, 2))


def q2_k(raw: Tensor, out: Tensor) -> None:
    scales = raw[:, :16]
    values = _fields(raw[:, 16:80].view(-1, 2, 32), 2, 4).view(-1, 16, 16)
    scale = (_half(raw, 80) * (scales & 15)).unsqueeze(2)
    least = (_half(raw, 82) * (scales >> 4)).unsqueeze(2)
    torch.mul(values, scale, out=out.view(-1, 16, 16)).sub_(least)


def q3_k(raw: Tensor, out: Tensor) -> None:
    high = _fields(raw[:, :32].unsqueeze(1), 1, 8).view(-1, 16, 16)
    low = _fields(raw[:, 32:96].view(-1, 2, 32), 2, 4).view(-1, 16, 16)
    packed = raw[:, 96:108]
    lows = torch.cat((packed[:, :8] & 15, packed[:, :8] >> 4), 1)
    highs = _fields(packed[:, 8:].unsqueeze(1), 2, 4).flatten(1)
    scale = _half(raw, 108) * ((lows | (highs << 4)).view(torch.int8) - 32)
    values = low.view(torch.int8) - ((high ^ 1) << 2).view(torch.int8)
    torch.mul(values, scale.unsqueeze(2), out=out.view(-1, 16, 16))


def _scales_k4(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Twelve bytes -> eight 6-bit scales and eight 6-bit minima, each [n, 8]."""
    a, b, c = raw[:, :4], raw[:, 4:8], raw[:, 8:]
    scale = torch.cat((a & 63, (c & 15) | ((a >> 6) << 4)), 1)
    least = torch.cat((b & 63, (c >> 4) | ((b >> 6) << 4)), 1)
    return scale, least


def _k4(raw: Tensor, values: Tensor, out: Tensor) -> None:
    scales, minima = _scales_k4(raw[:, 4:16])
    scale = (_half(raw, 0) * scales).unsqueeze(2)
    least = (_half(raw, 2) * minima).unsqueeze(2)
    torch.mul(values, scale, out=out.view(-1, 8, 32)).sub_(least)


def q4_k(raw: Tensor, out: Tensor) -> None:
    _k4(raw, _fields(raw[:, 16:].view(-1, 4, 32), 4, 2).view(-1, 8, 32), out)


def q5_k(raw: Tensor, out: Tensor) -> None:
    high = _fields(raw[:, 16:48].unsqueeze(1), 1, 8).view(-1, 8, 32) << 4
    low = _fields(raw[:, 48:].view(-1, 4, 32), 4, 2).view(-1, 8, 32)
    _k4(raw, low | high, out)


def q6_k(raw: Tensor, out: Tensor) -> None:
    low = _fields(raw[:, :128].view(-1, 2, 64), 4, 2).view(-1, 16, 16)
    high = _fields(raw[:, 128:192].view(-1, 2, 32), 2, 4).view(-1, 16, 16)
    scale = _half(raw, 208) * raw[:, 192:208].contiguous().view(torch.int8)
    values = (low | (high << 4)).view(torch.int8) - 32
    torch.mul(values, scale.unsqueeze(2), out=out.view(-1, 16, 16))


DEQUANTISERS: dict[str, Dequantise] = {
    "Q8_0": q8_0,
    "Q4_0": q4_0,
    "Q4_1": q4_1,
    "Q5_0": q5_0,
    "Q5_1": q5_1,
    "Q2_K": q2_k,
    "Q3_K": q3_k,
    "Q4_K": q4_k,
    "Q5_K": q5_k,
    "Q6_K": q6_k,
}
PLAIN: dict[str, torch.dtype] = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

_CHUNK = 1 << 19  # elements at a time: output and intermediates stay in the second-level cache


def dequantise(kind: str, raw: Tensor, block: int, into: Tensor) -> None:
    """raw [n, bytes] uint8 -> into [n * block elements], contiguous, of any float dtype and on any device."""
    rows = into.view(-1, block)
    step = max(1, _CHUNK // block)
    decode = DEQUANTISERS[kind]
    direct = into.dtype == torch.float32 and into.device == raw.device
    scratch = None if direct else torch.empty(min(step, len(rows)), block)
    for at in range(0, len(rows), step):
        target = rows[at : at + step]
        if scratch is None:
            decode(raw[at : at + step], target)
        else:
            decode(raw[at : at + step], scratch[: len(target)])
            target.copy_(scratch[: len(target)])
