"""Launches the products for Hopper: 17 to 128 rows, whose weights' bytes count, and gate and up of many rows.

All else is multiplied by cuBLAS.
"""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor

from octavo.ops.cuda.cut import GATED_SHARED, Skinny, cut_skinny, fills
from octavo.ops.cuda.program import Program, available
from octavo.ops.cuda.source import source
from octavo.ops.cuda.tensor_map import tensor_map
from octavo.ops.norm import rms_norm

FEWEST, MOST = 17, 128  # rows of a skinny product; fewer have kernels of their own
_SMALL = 1 << 20  # weights: a product that is over before its launch
_CODES = {None: 0, "silu": 1, "gelu": 2, "gelu_tanh": 3}


class _Problem(ctypes.Structure):
    """As in skinny.cu."""

    _fields_ = (
        ("bias", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("rows", ctypes.c_int),
        ("outputs", ctypes.c_int),
        ("depth", ctypes.c_int),
    )


def skinny(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    act: str | None = None,
    cut: Skinny | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """x [m, k], weight [n, k] -> x @ weight.T + bias + residual [m, n]; with `act` weight is (gate, up), the
    result act(x @ gate.T) * (x @ up.T) + residual half as wide, and there is no bias.

    m is at most 64 for each group of the cut; k, and n where activated half of it, are multiples of 8.
    All contiguous and of one dtype of 16 bits, but that `out` may be float32; it may be the residual.
    """
    (m, k), gated = x.shape, act is not None
    assert bias is None or not gated, "a bias comes before an activation"
    n = weight.shape[0] // (2 if gated else 1)
    cut = cut or cut_skinny(m, n, k, gated, _processors(x.device))
    y = torch.empty(m, n, dtype=x.dtype, device=x.device) if out is None else out
    outs = cut.width // 2 if gated else cut.width
    maps = tensor_map(x, 64 * cut.groups), tensor_map(weight, outs)
    problem = _Problem(_address(bias), _address(residual), y.data_ptr(), m, n, k)
    program = _skinny(x.device, cut, _CODES[act], x.dtype == torch.float16, y.dtype == torch.float32)
    program.launch(-(-n // outs) * cut.share, (*maps, problem), torch.cuda.current_stream().cuda_stream)
    return y


def gated(x: Tensor, weight: Tensor, act: str) -> Tensor:
    """x [m, k], weight [2 n, k] -> act(x @ gate.T) * (x @ up.T), [m, n]; k and n are multiples of 8."""
    (m, k), n = x.shape, weight.shape[0] // 2
    y = torch.empty(m, n, dtype=x.dtype, device=x.device)
    maps = tensor_map(x, 128), tensor_map(weight, 128), tensor_map(y, 64)
    numbers = ctypes.c_int(m), ctypes.c_int(n), ctypes.c_int(k)
    program = _gated(x.device, _CODES[act], x.dtype == torch.float16)
    blocks = _processors(x.device) // 2 * 2
    program.launch(blocks, (*maps, *numbers), torch.cuda.current_stream().cuda_stream)
    return y


def takes_skinny(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, act: str | None
) -> bool:
    """Whether `skinny` can do it, and faster than others."""
    n = weight.shape[0] // (2 if act else 1)
    if not (FEWEST <= x.shape[0] <= MOST and n * x.shape[1] >= _SMALL):
        return False
    return (bias is None or act is None) and _fits(x, weight, n, bias, residual)


def takes_gated(x: Tensor, weight: Tensor, bias: Tensor | None, act: str | None) -> bool:
    """Whether `gated` can do it, and faster than a product and an activation."""
    if act is None or bias is not None or x.shape[0] <= MOST:
        return False
    n = weight.shape[0] // 2
    return _fits(x, weight, n) and fills(x.shape[0], n, _processors(x.device))


def _fits(x: Tensor, weight: Tensor, n: int, *added: Tensor | None) -> bool:
    return (
        x.dtype == weight.dtype
        and x.dtype in (torch.bfloat16, torch.float16)
        and x.is_contiguous()
        and weight.is_contiguous()
        and x.shape[1] % 8 == 0
        and n % 8 == 0
        and not (x.data_ptr() | weight.data_ptr()) % 16
        and all(t is None or _paired(t, x.dtype) for t in added)
        and available(x.device)
    )


def _paired(added: Tensor, dtype: torch.dtype) -> bool:
    """Read two elements at a time."""
    return added.dtype == dtype and added.is_contiguous() and added.data_ptr() % 4 == 0


@cache
def _skinny(device: torch.device, cut: Skinny, act: int, half: bool, wide: bool) -> Program:
    values = {
        "ACT": act, "HALF": int(half), "WIDE": int(wide), "WIDTH": cut.width, "SHARE": cut.share,
        "GROUPS": cut.groups, "STAGES": cut.stages,
    }  # fmt: skip
    text = source("skinny", cut.width, half)
    threads = 128 * cut.groups + 32
    return Program("skinny", text, values, threads=threads, shared=cut.shared, cluster=cut.share)


@cache
def _gated(device: torch.device, act: int, half: bool) -> Program:
    values = {"ACT": act, "HALF": int(half)}
    return Program("gated", source("gated", 256, half), values, threads=384, shared=GATED_SHARED, cluster=2)


@cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def takes(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    gain: Tensor | None = None,
    eps: float = 0.0,
    act: str | None = None,
) -> bool:
    """Whether a call of the ops `project` or `linear` is for these kernels."""
    return takes_skinny(x, weight, bias, residual, act) or (
        residual is None and takes_gated(x, weight, bias, act)
    )


def run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    gain: Tensor | None = None,
    eps: float = 0.0,
    act: str | None = None,
) -> Tensor:
    """`project`, and so `linear`, which asks for less, where `takes` says so."""
    h = x if gain is None else rms_norm(x, gain, eps)
    if x.shape[0] <= MOST:
        return skinny(h, weight, bias, residual, act, out=residual)
    assert act is not None and residual is None
    return gated(h, weight, act)


def takes_head(x: Tensor, weight: Tensor, out: Tensor | None = None) -> bool:
    return takes_skinny(x, weight, None, None, None) and (out is None or _paired(out, torch.float32))


def head_logits(x: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    y = torch.empty(len(x), len(weight), device=x.device) if out is None else out
    return skinny(x, weight, out=y)
