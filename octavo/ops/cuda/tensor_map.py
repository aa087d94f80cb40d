"""How the copy engine (TMA) is told of a matrix: where it lies, its size, the box it moves at a time."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

_BYTES, _ALIGNED = 128, 64
SPAN = 64  # elements of 16 bits a box is wide: 128 bytes, what a swizzle covers


def tensor_map(matrix: Tensor, rows: int) -> ctypes.Array[ctypes.c_char]:
    """Of a contiguous matrix [n, k] of 16 bits, in boxes of `rows` by SPAN; outside of it lie zeros.

    It describes memory, not a tensor: another that comes to lie there in the same shape has the same map.
    """
    n, k = matrix.shape
    return _encoded(matrix.data_ptr(), n, k, rows, matrix.dtype == torch.float16)


@lru_cache(maxsize=4096)
def _encoded(address: int, n: int, k: int, rows: int, half: bool) -> ctypes.Array[ctypes.c_char]:
    from cuda.bindings import driver

    kinds = driver.CUtensorMapDataType
    status, made = driver.cuTensorMapEncodeTiled(
        kinds.CU_TENSOR_MAP_DATA_TYPE_FLOAT16 if half else kinds.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        2,
        address,
        [driver.cuuint64_t(k), driver.cuuint64_t(n)],
        [driver.cuuint64_t(2 * k)],
        [driver.cuuint32_t(SPAN), driver.cuuint32_t(rows)],
        [driver.cuuint32_t(1), driver.cuuint32_t(1)],
        driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
        driver.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B,
        driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    )
    if int(status) != 0:
        raise RuntimeError(f"CUDA: {status.name} for a matrix [{n}, {k}] in boxes of {rows} rows")
    return _aligned(made)


def _aligned(made: Any) -> ctypes.Array[ctypes.c_char]:
    """A copy where a launch may read it."""
    memory = (ctypes.c_char * (_BYTES + _ALIGNED))()
    copy = (ctypes.c_char * _BYTES).from_buffer(memory, -ctypes.addressof(memory) % _ALIGNED)
    ctypes.memmove(copy, int(made.getPtr()), _BYTES)
    return copy
