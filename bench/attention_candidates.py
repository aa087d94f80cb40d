"""Configurations of the attention kernels worth measuring."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from octavo.ops.triton.attention_decode import DecodeConfig
from octavo.ops.triton.attention_direct import DirectConfig
from octavo.ops.triton.attention_gather import FreshConfig
from octavo.ops.triton.attention_prefill import PrefillConfig
from octavo.ops.triton.attention_prefix import PrefixConfig


def decode_candidates() -> Iterator[DecodeConfig]:
    cuts = ((64, 4, 3), (64, 4, 2), (64, 4, 5), (32, 2, 2), (32, 4, 2), (128, 4, 2), (64, 2, 2), (128, 8, 2))
    for (block, warps, stages), per_sm in itertools.product(cuts, (1, 2, 3, 4, 6, 8)):
        if block * per_sm <= 64 * 5 and warps * per_sm <= 24:
            yield DecodeConfig(block=block, warps=warps, stages=stages, per_sm=per_sm)


def direct_candidates() -> Iterator[DirectConfig]:
    cuts = ((64, 4, 3), (64, 4, 5), (128, 8, 3), (128, 8, 5), (32, 4, 5), (32, 2, 5), (64, 8, 5), (64, 2, 5))
    for cut, per_sm, least in itertools.product(cuts, (1, 2, 4), (1, 2, 3)):
        yield DirectConfig(*cut, per_sm, least)


def variations(best: DecodeConfig) -> Iterator[DecodeConfig]:
    """What is tried around the best cut only."""
    yield best._replace(fused=False)
    for least, extra in ((2, 0), (3, 1), (4, 1), (8, 1), (4, 2)):
        yield best._replace(least=least, extra=extra)


def prefill_candidates() -> Iterator[PrefillConfig]:
    cuts = ((128, 64, 8), (128, 128, 8), (64, 64, 4), (64, 32, 4), (128, 32, 8), (128, 64, 4), (64, 128, 4))
    for cut, stages in itertools.product(cuts, (2, 3, 5)):
        yield PrefillConfig(*cut, stages)


def fresh_candidates() -> Iterator[FreshConfig]:
    for cut in ((128, 128, 8), (128, 64, 8), (64, 64, 4)):
        yield FreshConfig(*cut)


def prefix_candidates() -> Iterator[PrefixConfig]:
    cuts = ((64, 64, 4, 3), (64, 64, 4, 5), (128, 64, 8, 5), (64, 128, 4, 3), (128, 128, 8, 3))
    for cut, splits in itertools.product(cuts, (1, 2, 4, 8)):
        yield PrefixConfig(*cut, splits)
