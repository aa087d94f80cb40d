"""Launches the skinny products: which kernel for how many rows, and how it is cut.

Up to MOST rows the weights' bytes are all that counts and our kernels read them at memory speed;
above, cuBLAS multiplies. Rows of float32 are exact either way (no tf32).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from octavo.ops.matmul import head_logits, linear, project
from octavo.ops.norm import rms_norm
from octavo.ops.triton.launch import early, gluon_known, interpreted
from octavo.ops.triton.matmul_cut import (
    MOST_FEW,
    Cut,
    Dot,
    Few,
    Vec,
    choose_cut,
    pad_rows,
    programs_of,
    sharers_of,
    worth,
)
from octavo.ops.triton.matmul_dot import dot_kernel
from octavo.ops.triton.matmul_eight import eight_kernel
from octavo.ops.triton.matmul_vec import vec_kernel

MOST = 64
_PARTS = 1 << 23  # float32: 32 MiB for shares of tiles
_TILES = 1 << 16
_NORMED = 8  # rows up to which a norm within the product costs less than one before it
_SIXTEEN = (torch.float16, torch.bfloat16)


class Terms(NamedTuple):
    """What is done beside the product: y = act(norm(x) @ weight.T * scale + bias) + residual."""

    scale: Tensor | None = None  # [n_out] float32, of 8-bit weights
    bias: Tensor | None = None
    residual: Tensor | None = None
    gain: Tensor | None = None  # [n_in] of a root-mean-square norm
    eps: float = 0.0
    act: str | None = None  # gated: the weights are (gate, up), the result is half as wide
    dtype: torch.dtype | None = None  # of the result, x's where None
    x_scale: Tensor | None = None  # [m] float32, of rows of 8 bits


PLAIN = Terms()


class Workspace(NamedTuple):
    """Scratch of one device. Kernels of one stream share it; `arrived` is zero between launches."""

    parts: Tensor
    arrived: Tensor
    processors: int


@cache
def workspace(device: torch.device) -> Workspace:
    """Made on first use, which must not be inside a graph's capture: zeros would wait for its replay."""
    assert device.type != "cuda" or not torch.cuda.is_current_stream_capturing(), "call reserve() first"
    count = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
    parts = torch.empty(_PARTS if device.type == "cuda" else _PARTS >> 5, device=device)
    return Workspace(parts, torch.zeros(_TILES, dtype=torch.int32, device=device), count)


def reserve(device: torch.device) -> None:
    """Makes the scratch memory, before anything is captured."""
    workspace(torch.empty(0, device=device).device)


def skinny(x: Tensor, weight: Tensor, gated: bool = False) -> bool:
    """Whether our kernels take this product."""
    m, k = x.shape
    if not (
        0 < m <= MOST and x.is_contiguous() and weight.is_contiguous() and k * weight.element_size() % 16 == 0
    ):
        return False
    if m == 1:
        return True
    n_out = weight.shape[0] // (2 if gated else 1)
    # exact float32 has no tensor cores
    return x.dtype != torch.float32 and worth(m, n_out, k, weight.dtype, gated)


def multiply(
    x: Tensor,
    weight: Tensor,
    terms: Terms = PLAIN,
    cut: Cut | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """x [m, n_in], weight [n_out, n_in] -> [m, n_out], or half as wide with `terms.act`.

    `out`, where given, is contiguous. A norm goes first where it would cost more within; a given `cut` has
    it within.
    """
    m, k = x.shape
    n_out = weight.shape[0] // (2 if terms.act else 1)
    y = torch.empty(m, n_out, dtype=terms.dtype or x.dtype, device=x.device) if out is None else out
    if cut is None:
        few = _few(x, weight)
        cut = choose_cut(m, n_out, k, weight.dtype, terms.act is not None, terms.x_scale is not None, few)
        if terms.gain is not None and m > (_NORMED if few else 1):
            x, terms = rms_norm(x, terms.gain, terms.eps), terms._replace(gain=None)
    if isinstance(cut, Vec) and _in_words(x, weight, terms):
        _launch_eight(x, weight, y, terms, cut)
    elif isinstance(cut, Vec):
        _launch_vec(x, weight, y, terms, cut)
    elif isinstance(cut, Few):
        _launch_few(x, weight, y, terms, cut)
    else:
        assert terms.gain is None, "the norm goes first where there are several rows"
        _launch_dot(x, weight, y, terms, cut)
    return y


def _launch_vec(x: Tensor, weight: Tensor, y: Tensor, t: Terms, cut: Vec) -> None:
    n_out, k = y.shape[1], x.shape[1]
    first = early(x)
    vec_kernel[(triton.cdiv(n_out, cut.rows),)](
        x, weight, t.scale, t.bias, t.residual, t.gain, y, n_out, k, t.eps,
        BN=cut.rows, BK=cut.columns, V=min(16 // weight.element_size(), cut.columns), ACT=t.act,
        EVEN_K=k % cut.columns == 0, EARLY=first, num_warps=cut.warps, launch_pdl=first,
    )  # fmt: skip


def _in_words(x: Tensor, weight: Tensor, t: Terms) -> bool:
    """Whether weights of 8 bits can be read four at a time, and x and the gain of the norm with them."""
    gain = x if t.gain is None else t.gain
    if weight.element_size() > 1 or x.dtype not in _SIXTEEN or gain.dtype != x.dtype:
        return False
    return weight.shape[1] % 16 == 0 and all(v.storage_offset() % 16 == 0 for v in (x, gain, weight))


def _launch_eight(x: Tensor, weight: Tensor, y: Tensor, t: Terms, cut: Vec) -> None:
    n_out, k, columns = y.shape[1], x.shape[1] // 4, cut.columns // 4
    first = early(x)
    eight_kernel[(triton.cdiv(n_out, cut.rows),)](
        x.view(torch.int64), weight.view(torch.int32), t.scale, t.bias, t.residual,
        None if t.gain is None else t.gain.view(torch.int64), y, n_out, k, t.eps,
        BN=cut.rows, W=columns, ACT=t.act, HALF=x.dtype == torch.float16, EVEN_K=k % columns == 0,
        EARLY=first, REAL=not interpreted(), num_warps=cut.warps, launch_pdl=first,
    )  # fmt: skip


def _few(x: Tensor, weight: Tensor) -> bool:
    """Whether weights can go straight into registers."""
    fits = 1 < x.shape[0] <= MOST_FEW and x.dtype in _SIXTEEN and weight.dtype == x.dtype
    return fits and gluon_known(x.device)


def _launch_few(x: Tensor, weight: Tensor, y: Tensor, t: Terms, cut: Few) -> None:
    from octavo.ops.triton.matmul_few import few_kernel  # other releases of triton have another gluon

    (m, k), n_out = x.shape, y.shape[1]
    first = early(x)
    few_kernel[(triton.cdiv(n_out, cut.tile),)](
        x, weight, t.bias, t.residual, t.gain, y, m, n_out, k, t.eps,
        M=8 if m <= 8 else 16, BN=cut.tile, BK=cut.depth, ACT=t.act,
        EVEN_K=k % (cut.depth * cut.warps) == 0, EARLY=first, num_warps=cut.warps, launch_pdl=first,
    )  # fmt: skip


def _launch_dot(x: Tensor, weight: Tensor, y: Tensor, t: Terms, cut: Dot) -> None:
    (m, k), n_out = x.shape, y.shape[1]
    space = workspace(x.device)
    rows = pad_rows(m)
    halves = 2 if t.act else 1
    programs = programs_of(cut, n_out, k, space.processors)
    sharers = sharers_of(cut, n_out, k, programs)
    if sharers > 1:
        assert 2 * programs * halves * cut.tile * rows <= space.parts.numel(), "the workspace is too small"
        assert triton.cdiv(n_out, cut.tile) <= _TILES, "too many tiles"
    first = early(x)
    tiles = TensorDescriptor.from_tensor(weight, [cut.tile, cut.depth]) if cut.engine else None
    dot_kernel[(programs,)](
        x, weight, tiles, t.x_scale, t.scale, t.bias, t.residual, y, space.parts, space.arrived, m, n_out, k,
        M=rows, BN=cut.tile, BK=cut.depth, ACT=t.act, SHARERS=sharers, EVEN_K=k % cut.depth == 0,
        STAGES=cut.stages, AHEAD=cut.ahead, EARLY=first, REAL=not interpreted(),
        num_warps=cut.warps, launch_pdl=first,
    )  # fmt: skip


def _is_skinny(x: Tensor, weight: Tensor, *_: object, **named: object) -> bool:
    return skinny(x, weight)


def _projects_skinny(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    gain: Tensor | None = None,
    eps: float = 0.0,
    act: str | None = None,
) -> bool:
    return skinny(x, weight, act is not None)


@linear.kernel("cuda", when=lambda x, weight, bias=None, residual=None: residual is not None)
def _onto(x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
    """cuBLAS adds the product to the residual where it lies: one rounding, no pass of its own."""
    assert residual is not None
    residual.addmm_(x, weight.t())
    return residual if bias is None else residual.add_(bias)


@linear.kernel("cuda", when=_is_skinny)
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
    return multiply(x, weight, Terms(bias=bias, residual=residual))


@project.kernel("cuda", when=_projects_skinny)
def _project(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    gain: Tensor | None = None,
    eps: float = 0.0,
    act: str | None = None,
) -> Tensor:
    return multiply(x, weight, Terms(None, bias, residual, gain, eps, act))


@head_logits.kernel("cuda", when=lambda x, weight, out=None: x.dtype != torch.float32)
def _many_logits(x: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    if out is None:
        return torch.mm(x, weight.t(), out_dtype=torch.float32)
    return torch.mm(x, weight.t(), out_dtype=torch.float32, out=out)


@head_logits.kernel("cuda", when=_is_skinny)
def _few_logits(x: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    return multiply(x, weight, Terms(dtype=torch.float32), out=out)
