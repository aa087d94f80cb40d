"""The library's C interface as Python sees it: structs, functions, and an engine that owns threads.

Mirrors abi.h. Knows pointers and sizes, nothing of models.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_char_p, c_double, c_float, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

ABI = 3
PANEL, BLOCK, BUFFERS, QUERIES = 16, 32, 8, 48
FORMATS = ("F32", "BF16", "INT8", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")
LEVELS = ("portable", "avx2", "avx512", "avx512_bf16", "amx", "neon", "neon_dotprod")
EMBED, LINEAR, ATTENTION, NORM, ANGLES = range(5)
PLAIN, NORMED, SILU, GELU, GELU_TANH = range(5)
CACHE_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
_HUGE_PAGES = 14  # Linux's MADV_HUGEPAGE
SCALE = 4  # bytes beside the codes of a position and kv head where the cache is int8


class WeightStruct(Structure):
    _fields_ = (
        ("format", c_int32),
        ("reserved", c_int32),
        ("n", c_int64),
        ("k", c_int64),
        ("data", c_void_p),
    )


class OpStruct(Structure):
    _fields_ = (
        *((name, c_int32) for name in (
            "code", "prologue", "add", "input", "output", "heads", "kv_heads", "head_dim",
            "rope_dim", "window", "group", "page", "cache_type", "layer", "column", "angles",
        )),
        *((name, c_float) for name in ("eps", "scale", "softcap", "reserved_f")),
        ("weight", POINTER(WeightStruct)),
        *((name, c_void_p) for name in ("norm", "bias", "rope", "q_norm", "k_norm")),
    )  # fmt: skip


class GroupStruct(Structure):
    _fields_ = (("lengths", c_void_p), ("tables", c_void_p), ("table_stride", c_int64))


class StepStruct(Structure):
    _fields_ = (
        ("tokens", c_int64), ("rows", c_int64), ("ids", c_void_p), ("positions", c_void_p),
        ("row_start", c_void_p), ("groups", POINTER(GroupStruct)), ("caches", POINTER(c_void_p)),
        ("buffers", c_void_p * BUFFERS), ("seconds", POINTER(c_double)),
    )  # fmt: skip


class NativeError(RuntimeError):
    """The library refused a call: our own bug, or no memory."""


class Library:
    """A loaded library. `levels` are those this CPU runs, `level` the best of them."""

    def __init__(self, path: Path) -> None:
        self.calls: Any = self.open(path)
        self.name = path.name  # changes with the layout of packed weights
        if self.calls.oct_abi() != ABI:
            raise NativeError(f"{path} has ABI {self.calls.oct_abi()}, {ABI} is wanted")
        self.levels = tuple(name for i, name in enumerate(LEVELS) if self.calls.oct_has_level(i))
        self.level = LEVELS[self.calls.oct_best_level()]

    def open(self, path: Path) -> Any:
        """An object with the functions of abi.h."""
        lib = ctypes.CDLL(str(path))
        calls: dict[str, tuple[Any, tuple[Any, ...]]] = {
            "oct_abi": (c_int32, ()),
            "oct_best_level": (c_int32, ()),
            "oct_has_level": (c_int32, (c_int32,)),
            "oct_level_name": (c_char_p, (c_int32,)),
            "oct_engine_create": (c_void_p, (c_int32, c_int32, POINTER(c_int32))),
            "oct_engine_destroy": (None, (c_void_p,)),
            "oct_packed_bytes": (c_int64, (c_int32, c_int64, c_int64)),
            "oct_pack": (c_int32, (c_void_p, POINTER(WeightStruct), c_void_p, c_void_p, c_int64, c_int64)),
            "oct_row": (c_int32, (POINTER(WeightStruct), c_int64, c_void_p)),
            "oct_begin": (c_int32, (c_void_p, c_void_p, c_int64, c_void_p)),
            "oct_end": (None, (c_void_p, c_void_p, c_int64, c_void_p, c_void_p)),
            "oct_sample": (c_int32, (c_void_p, c_void_p)),
            "oct_run": (c_int32, (c_void_p, c_void_p, c_int64, c_void_p, POINTER(StepStruct))),
        }
        for name, (result, arguments) in calls.items():
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
        return lib

    def packed_bytes(self, format: str, n: int, k: int) -> int:
        """Bytes of a packed [n, k]. NativeError where the format cannot hold it."""
        nbytes: int = self.calls.oct_packed_bytes(FORMATS.index(format), n, k)
        if nbytes < 0:
            raise NativeError(f"{format} cannot hold a matrix [{n}, {k}]")
        return nbytes


class Engine:
    """Threads, scratch memory and the kernels of one level. One call at a time."""

    def __init__(
        self, library: Library, threads: int, level: str | None = None, cpus: Sequence[int] | None = None
    ) -> None:
        self.library = library
        self._handle: int | None = None
        self.level = level or library.level
        pins = (c_int32 * threads)(*cpus) if cpus is not None else None
        self._lib = library.calls
        self._handle = self._lib.oct_engine_create(threads, LEVELS.index(self.level), pins)
        if not self._handle:
            raise NativeError(
                f"no engine of level {self.level} with {threads} threads (best: {library.level})"
            )

    def close(self) -> None:
        """Ends the threads. Nothing may run."""
        if self._handle:
            self._lib.oct_engine_destroy(self._handle)
            self._handle = None

    def __del__(self) -> None:
        self.close()

    def pack(self, weight: PackedWeight, source: Tensor, first: int, scales: Tensor | None = None) -> None:
        """Writes rows from `first` on: source [rows, ...] as its format stores rows, contiguous."""
        rows = source.shape[0]
        assert source.is_contiguous() and source.device.type == "cpu"
        assert source.nbytes == rows * source_bytes(weight.format, weight.k), "source does not hold such rows"
        at = None if scales is None else scales.data_ptr()
        if self._lib.oct_pack(self._handle, weight.struct, source.data_ptr(), at, first, rows):
            raise NativeError(f"rows {first}..{first + rows} do not fit a weight of {weight.n} rows")

    def row(self, weight: PackedWeight, index: int) -> Tensor:
        """Row `index` as float32 [k]."""
        out = torch.empty(weight.k)
        if self._lib.oct_row(weight.struct, index, out.data_ptr()):
            raise NativeError(f"no row {index} in a weight of {weight.n}")
        return out

    def run(self, ops: Any, count: int, widths: Any, step: StepStruct) -> None:
        """Runs a program: `ops` an array of OpStruct, `widths` one of BUFFERS int64."""
        if code := self._lib.oct_run(self._handle, ops, count, widths, step):
            raise NativeError("no memory for a step" if code == -1 else "a token or position is out of range")

    def sample(self, rows: Any) -> None:
        """Draws tokens: `rows` a SampleStruct (ops/cpu/sample.py)."""
        if code := self._lib.oct_sample(self._handle, rows):
            raise NativeError("no memory to sample" if code == -1 else "the vocabulary is out of range")


def huge_pages(nbytes: int) -> mmap.mmap:
    """Zeroed memory in huge pages where the kernel has them. Private: shared memory gets none."""
    mapped = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError, AttributeError):  # a kernel or system without them
        mapped.madvise(_HUGE_PAGES)
    return mapped


class Memory:
    """Zeroed memory for weights, in huge pages where the kernel has them: with small ones a core
    reads less a second. Freed when the last tensor of it is."""

    _CHUNK = 32 << 20  # bytes

    def __init__(self) -> None:
        self._chunk = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def take(self, nbytes: int) -> Tensor:
        """uint8 [nbytes], 64-byte aligned."""
        if self._used + nbytes > self._chunk.numel():
            size = -(-max(nbytes, self._CHUNK) // (2 << 20)) * (2 << 20)
            mapped: Any = huge_pages(size)
            self._chunk, self._used = torch.frombuffer(mapped, dtype=torch.uint8), 0
        taken = self._chunk[self._used : self._used + nbytes]
        self._used += -(-nbytes // 64) * 64
        return taken


class Room(Protocol):
    """Where a weight finds memory."""

    def take(self, nbytes: int) -> Tensor:
        """uint8 [nbytes], 64-byte aligned."""


class PackedWeight:
    """A matrix [n, k] in panels. `data` holds it; rows are written by Engine.pack."""

    def __init__(self, library: Library, format: str, n: int, k: int, room: Room | None = None) -> None:
        nbytes = library.packed_bytes(format, n, k)
        self.format, self.n, self.k = format, n, k
        self.data = _aligned(nbytes) if room is None else room.take(nbytes)
        self.struct = WeightStruct(FORMATS.index(format), 0, n, k, self.data.data_ptr())


def _aligned(nbytes: int) -> Tensor:
    raw = torch.zeros(nbytes + 63, dtype=torch.uint8)
    return raw[-raw.data_ptr() % 64 :][:nbytes]


_ROW_BYTES = {
    "F32": (1, 4),
    "BF16": (1, 2),
    "INT8": (1, 1),
    "Q8_0": (32, 34),
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q4_K": (256, 144),
    "Q6_K": (256, 210),
}


def source_bytes(format: str, k: int) -> int:
    """Bytes of a row of k elements as files store it."""
    block, nbytes = _ROW_BYTES[format]
    return k // block * nbytes


def linear(engine: Engine, x: Tensor, weight: PackedWeight, bias: Tensor | None = None) -> Tensor:
    """x [m, k] float32 -> x W^T + bias, [m, n] float32."""
    assert x.dtype == torch.float32 and x.is_contiguous() and x.shape[1] == weight.k
    out = torch.empty(x.shape[0], weight.n)
    op = OpStruct(code=LINEAR, prologue=PLAIN, input=0, output=1, weight=ctypes.pointer(weight.struct))
    op.bias = None if bias is None else bias.data_ptr()
    step = StepStruct(tokens=x.shape[0])
    step.buffers[0], step.buffers[1] = x.data_ptr(), out.data_ptr()
    widths = (c_int64 * BUFFERS)(weight.k, weight.n)
    engine.run(ctypes.byref(op), 1, widths, step)
    return out
