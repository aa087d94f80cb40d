"""Which configuration of the attention kernels fits a step: frozen from measurements, no search at run time.

`python bench/kernels_attention.py` measures the candidates on a GPU. Host values only.
"""

from __future__ import annotations

from octavo.ops.triton.attention_decode import DecodeConfig
from octavo.ops.triton.attention_prefill import PrefillConfig
from octavo.ops.triton.attention_prefix import PrefixConfig


def decode_config(rows: int, d: int, itemsize: int) -> DecodeConfig:
    """`itemsize`: bytes of a value in the cache. `d` padded to a power of two."""
    if itemsize == 4:
        return DecodeConfig(block=16 if d > 128 else 32, warps=4, stages=2, per_sm=2)
    block = 64 if d * itemsize <= 256 else 32
    return DecodeConfig(block=block, warps=4, stages=3, per_sm=2 if rows <= 4 else 4, least=2)


def prefill_config(tokens: int, rows: int, d: int, group: int, itemsize: int) -> PrefillConfig:
    """`tokens` and `rows` bound the step, `group` query heads share a key head; `itemsize` of the cache."""
    if itemsize == 4:
        return PrefillConfig(tile=32, block=16, warps=8, stages=2)
    if d > 128:
        return PrefillConfig(tile=128, block=32, warps=8, stages=3)
    if tokens * group < 64 * max(rows, 16):
        return PrefillConfig(tile=64, block=64, warps=4, stages=3)
    return PrefillConfig(tile=128, block=64, warps=8, stages=5)


def prefix_config(
    rows: int, d: int, group: int, kv_heads: int, itemsize: int, processors: int
) -> PrefixConfig:
    """As many splits as fill the device once."""
    if itemsize == 4:
        tile, block, warps, stages = 32, 16, 8, 2
    else:
        tile, block, warps, stages = (64, 64, 4, 3) if d <= 128 else (64, 32, 8, 3)
    tiles = -(-rows // max(1, tile // group)) * kv_heads
    splits = min(8, max(1, 2 * processors // tiles))
    return PrefixConfig(tile, block, warps, stages, splits=1 << (splits.bit_length() - 1))
