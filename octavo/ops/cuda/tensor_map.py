"""How the copy engine (TMA) is told of a matrix: where it lies, its size, the box it moves at a time."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

from torch import Tensor

from octavo.ops.cuda.program import checked

_BYTES, _ALIGNED = 128, 64
_SPAN = 64  # elements of 16 bits a box is wide: 128 bytes, what a swizzle covers


def tensor_map(matrix: Tensor, rows: int) -> ctypes.Array[ctypes.c_char]:
    """Of a contiguous matrix [n, k] of 16 bits, in boxes of `rows` by 128 bytes; outside of it lie zeros.

    It describes memory, not a tensor: another that comes to lie there in the same shape has the same map.
    """
    n, k = matrix.shape
    return _encoded(matrix.data_ptr(), n, k, rows)


@lru_cache(maxsize=4096)
def _encoded(address: int, n: int, k: int, rows: int) -> ctypes.Array[ctypes.c_char]:
    from cuda.bindings import driver

    encoded = driver.cuTensorMapEncodeTiled(
        driver.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,  # 16 bits of any kind: they only move
        2,
        address,
        [driver.cuuint64_t(k), driver.cuuint64_t(n)],
        [driver.cuuint64_t(2 * k)],
        [driver.cuuint32_t(_SPAN), driver.cuuint32_t(rows)],
        [driver.cuuint32_t(1), driver.cuuint32_t(1)],
        driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
        driver.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B,
        driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    )
    return _aligned(checked(encoded))


def _aligned(made: Any) -> ctypes.Array[ctypes.c_char]:
    """A copy where a launch may read it."""
    memory = (ctypes.c_char * (_BYTES + _ALIGNED))()
    copy = (ctypes.c_char * _BYTES).from_buffer(memory, -ctypes.addressof(memory) % _ALIGNED)
    ctypes.memmove(copy, int(made.getPtr()), _BYTES)
    return copy
