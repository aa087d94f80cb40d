"""A model's step as a flat list of ops that one C call runs: the CPU's answer to a CUDA graph.

Written once when the model is built; every run then costs Python a handful of pointers.
Knows ops and buffers, no model family. Buffers hold one row of floats a token.
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Sequence
from ctypes import POINTER, c_int64, c_void_p
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from octavo.ops.cpu import lib
from octavo.ops.cpu.lib import BUFFERS, Engine, GroupStruct, NativeError, OpStruct, PackedWeight, StepStruct


class Group(Protocol):
    """As nn.forward.GroupInputs."""

    lengths: Tensor
    tables: Tensor


class Inputs(Protocol):
    """What a program reads of nn.forward.Forward."""

    @property
    def tokens(self) -> Tensor: ...
    @property
    def positions(self) -> Tensor: ...
    @property
    def row_start(self) -> Tensor: ...
    @property
    def groups(self) -> Sequence[Group]: ...
    @property
    def caches(self) -> dict[str, Tensor]: ...


class Heads(NamedTuple):
    """Shape and settings of an attention layer. `page` positions a cache page, a multiple of 16."""

    heads: int
    kv_heads: int
    head_dim: int
    page: int
    cache: torch.dtype
    scale: float
    group: int = 0
    window: int = 0
    softcap: float = 0.0
    eps: float = 0.0


def cache_width(dtype: torch.dtype, head_dim: int) -> int:
    """Elements that a position's key, or value, of one head takes in a cache: int8 brings its scale."""
    return head_dim + lib.SCALE if dtype == torch.int8 else head_dim


def unsupported(heads: int, kv_heads: int, head_dim: int) -> str | None:
    """Why attention of this shape cannot run, or None."""
    if head_dim % 16 or head_dim > 512:
        return f"head size {head_dim} is not a multiple of 16 up to 512"
    if heads // kv_heads > lib.QUERIES:
        return f"{heads // kv_heads} heads share one key (at most {lib.QUERIES})"
    return None


class Program:
    """Ops over buffers of `widths` floats a token. Add ops, then `run`."""

    def __init__(self, engine: Engine, widths: Sequence[int]) -> None:
        assert len(widths) <= BUFFERS
        self._engine = engine
        self._widths = (c_int64 * BUFFERS)(*widths)
        self._ops: list[OpStruct] = []
        self._names: list[str] = []
        self._keep: list[Any] = []  # what the ops point to
        self._array: Any = None
        self._caches: dict[str, Tensor] | None = None
        self._cache_array: Any = None
        self._views: tuple[object, ...] = (None,) * 5
        self._last = StepStruct()
        self._layers: list[str] = []
        self._seconds: Any = None

    # --- building ----------------------------------------------------------------------------

    def embed(self, weight: PackedWeight, out: int, scale: float = 1.0) -> None:
        """out = rows of weight named by the step's tokens, times scale."""
        self._add("embed", OpStruct(code=lib.EMBED, output=out, scale=scale), weight)

    def linear(
        self,
        weight: PackedWeight,
        src: int,
        dst: int,
        *,
        prologue: int = lib.PLAIN,
        norm: Tensor | None = None,
        eps: float = 0.0,
        bias: Tensor | None = None,
        add: bool = False,
        column: int = 0,
        name: str = "linear",
    ) -> None:
        """dst[:, column:] = (that +) prologue(src) W^T + bias. Gates read (gate, up) side by side."""
        op = OpStruct(
            code=lib.LINEAR, prologue=prologue, add=int(add), input=src, output=dst, eps=eps, column=column
        )
        op.norm, op.bias = self._at(norm), self._at(bias)
        self._add(name, op, weight)

    def norm(self, src: int, dst: int, weight: Tensor, eps: float) -> None:
        op = OpStruct(code=lib.NORM, input=src, output=dst, eps=eps)
        op.norm = self._at(weight)
        self._add("norm", op)

    def angles(self, out: int, inverse: Tensor, scale: float = 1.0) -> None:
        """out = cosines, then sines, of the tokens' positions times inverse [dim / 2], times scale."""
        op = OpStruct(code=lib.ANGLES, output=out, rope_dim=2 * inverse.shape[0], scale=scale)
        op.rope = self._at(inverse)
        self._add("angles", op)

    def attention(
        self,
        layer: str,
        src: int,
        dst: int,
        shape: Heads,
        *,
        angles: int = 0,
        rope_dim: int = 0,
        norms: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Rotates and stores the keys in src = (q, k, v), then attends over `layer`'s cache into dst.

        The first rope_dim dimensions of a head turn by the angles in buffer `angles`.
        """
        op = OpStruct(
            code=lib.ATTENTION, input=src, output=dst, heads=shape.heads, kv_heads=shape.kv_heads,
            head_dim=shape.head_dim, window=shape.window, group=shape.group, page=shape.page,
            cache_type=lib.CACHE_TYPES[shape.cache], layer=len(self._layers), eps=shape.eps,
            scale=shape.scale, softcap=shape.softcap, rope_dim=rope_dim, angles=angles,
        )  # fmt: skip
        assert shape.page % 16 == 0 and unsupported(shape.heads, shape.kv_heads, shape.head_dim) is None
        op.q_norm, op.k_norm = (self._at(t) for t in norms) if norms else (None, None)
        self._layers.append(layer)
        self._add("attention", op)

    def _add(self, name: str, op: OpStruct, weight: PackedWeight | None = None) -> None:
        if weight is not None:
            op.weight = ctypes.pointer(weight.struct)
            self._keep.append(weight)
        self._ops.append(op)
        self._names.append(name)
        self._array = None

    def _at(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        assert tensor.dtype == torch.float32 and tensor.is_contiguous() and tensor.device.type == "cpu"
        self._keep.append(tensor)
        return tensor.data_ptr()

    # --- running -----------------------------------------------------------------------------

    def profile(self, on: bool = True) -> dict[str, float]:
        """Seconds by op name since the last call; `on`: whether to go on measuring."""
        totals: dict[str, float] = {}
        for name, seconds in zip(self._names, self._seconds or (), strict=False):
            totals[name] = totals.get(name, 0.0) + seconds
        self._seconds = (ctypes.c_double * len(self._ops))() if on else None
        return totals

    def run(self, tokens: int, outside: dict[int, Tensor], f: Inputs | None = None) -> None:
        """One step of `tokens` tokens. `outside` says which buffers are tensors [tokens, width]."""
        step = self._step(tokens, f)
        for buffer, tensor in outside.items():
            assert tensor.dtype == torch.float32 and tensor.is_contiguous()
            step.buffers[buffer] = tensor.data_ptr()
        if self._array is None:
            self._array = (OpStruct * len(self._ops))(*self._ops)
        step.seconds = self._seconds
        self._engine.run(self._array, len(self._ops), self._widths, step)

    def _step(self, tokens: int, f: Inputs | None) -> StepStruct:
        """The last one again where its inputs are the same views, whatever they hold now."""
        if f is None:
            return StepStruct(tokens=tokens)
        views = (f.tokens, f.positions, f.row_start, f.groups, f.caches)
        if not all(map(operator.is_, views, self._views)):
            self._views, self._last = views, StepStruct(tokens=tokens)
            self._fill(self._last, f)
        return self._last

    def _fill(self, step: StepStruct, f: Inputs) -> None:
        step.rows = f.row_start.shape[0] - 1
        step.ids, step.positions = f.tokens.data_ptr(), f.positions.data_ptr()
        step.row_start = f.row_start.data_ptr()
        step.groups = groups_of(f.groups)
        if f.caches is not self._caches:  # the pool lives as long as the worker
            self._caches = f.caches
            at = [f.caches[name].data_ptr() for name in self._layers]
            self._cache_array = (c_void_p * max(1, len(at)))(*at)
        step.caches = self._cache_array


def groups_of(groups: Sequence[Group]) -> Any:
    """The C view of what cache groups see."""
    array = (GroupStruct * max(1, len(groups)))()
    for struct, group in zip(array, groups, strict=False):
        if group.tables.stride(1) != 1 or group.tables.dtype != torch.int32:
            raise NativeError("block tables must be rows of int32")
        struct.lengths, struct.tables = group.lengths.data_ptr(), group.tables.data_ptr()
        struct.table_stride = group.tables.stride(0)
    return ctypes.cast(array, POINTER(GroupStruct))
