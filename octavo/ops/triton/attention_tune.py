"""Which configuration of the attention kernels fits a step: frozen from measurements, no search at run time.

`python bench/kernels_attention.py` measures the candidates on a GPU. Host values only.
"""

from __future__ import annotations

from typing import NamedTuple

from octavo.ops.triton.attention_decode import DecodeConfig
from octavo.ops.triton.attention_direct import DirectConfig
from octavo.ops.triton.attention_entry import EntryConfig
from octavo.ops.triton.attention_gather import FreshConfig
from octavo.ops.triton.attention_prefill import PrefillConfig
from octavo.ops.triton.attention_prefix import PrefixConfig

FEW = 16  # rows that decode without a work list
BRIEF = 1024  # tokens of context


class FlashInferFrom(NamedTuple):
    """Where FlashInfer's kernels take the rows of several tokens, launches one by one included: with heads
    of these sizes, from so many tokens in a step and so long a context on."""

    head_sizes: tuple[int, ...] = ()
    tokens: int = 0
    context: int = 0


# by architecture ("sm90"): where FlashInfer is chosen without being asked for. None is: our kernels are first
# until a measurement (`python bench/attention_flashinfer.py`) says otherwise
FLASHINFER: dict[str, FlashInferFrom] = {}


def decode_config(rows: int, d: int, itemsize: int) -> DecodeConfig:
    """`itemsize`: bytes of a value in the cache. `d` padded to a power of two."""
    if itemsize == 4:
        return DecodeConfig(block=16 if d > 128 else 32, warps=4, stages=2, per_sm=2)
    if d * itemsize > 256:
        return DecodeConfig(block=32, warps=4, stages=3, per_sm=2)
    if rows <= 16:
        return DecodeConfig(block=64, warps=4, stages=5, per_sm=1)
    if itemsize == 1:
        return DecodeConfig(block=64, warps=2, stages=2, per_sm=4)
    return DecodeConfig(block=64, warps=4, stages=3, per_sm=4 if rows <= 128 else 3)


def direct_config(rows: int, d: int, itemsize: int) -> DirectConfig | None:
    """For steps of few rows; None: decode_config. `itemsize` and `d` as there."""
    if rows > FEW:
        return None
    if itemsize == 4:
        return DirectConfig(block=16 if d > 128 else 32, warps=4, stages=2, per_sm=2)
    block = 64 if d * itemsize <= 256 else 32
    return DirectConfig(block=block, warps=2, stages=5, per_sm=4 if 1 < rows <= 8 else 1)


def entry_config(rows: int, max_context: int, d: int, itemsize: int) -> EntryConfig | None:
    """For steps of few rows that all decode; None: enter, then direct_config, whose loop has more tiles on
    their way. `itemsize` and `d` as there."""
    if rows > FEW or max_context > BRIEF:
        return None
    if itemsize == 4:
        return EntryConfig(block=16 if d > 128 else 32)
    if rows > 4 or d * itemsize > 256:
        return EntryConfig(block=32, warps=2, per_sm=4)
    return EntryConfig(block=64, warps=4, per_sm=4 if rows == 1 else 2, ahead=0)


def prefill_config(tokens: int, max_context: int, d: int, group: int, itemsize: int) -> PrefillConfig:
    """`max_context` bounds the step's rows, `tokens` their sum; `group` query heads share a key head;
    `itemsize` of the cache."""
    if itemsize == 4:
        return PrefillConfig(tile=32, block=16, warps=8, stages=2)
    if d > 128:
        return PrefillConfig(tile=128, block=32, warps=8, stages=3)
    if tokens * group < 1024:
        return PrefillConfig(tile=64, block=64, warps=4, stages=2)
    if max_context <= 1024:
        return PrefillConfig(tile=64, block=32, warps=4, stages=2)
    if itemsize == 1:
        return PrefillConfig(tile=128, block=64, warps=4, stages=3)
    if max_context >= 4096:
        return PrefillConfig(tile=128, block=128, warps=8, stages=5)
    if tokens * group <= 8192:
        return PrefillConfig(tile=64, block=64, warps=4, stages=2)
    return PrefillConfig(tile=128, block=64, warps=8, stages=5)


def fresh_config(max_query: int) -> FreshConfig | None:
    """For whole prompts; None: prefill_config's kernel is faster, keys gathered for this one included."""
    return FreshConfig(64, 64, 4) if max_query >= 256 else None


def prefix_config(
    rows: int, d: int, group: int, kv_heads: int, itemsize: int, processors: int
) -> PrefixConfig:
    """As many splits as fill the device once."""
    if itemsize == 4:
        tile, block, warps, stages = 32, 16, 8, 2
    else:
        tile, block, warps, stages = (64, 64, 4, 5) if d <= 128 else (64, 32, 8, 3)
    tiles = -(-rows // max(1, tile // group)) * kv_heads
    splits = min(8, max(1, 2 * processors // tiles))
    return PrefixConfig(tile, block, warps, stages, splits=1 << (splits.bit_length() - 1))
