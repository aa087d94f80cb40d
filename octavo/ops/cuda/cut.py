"""How products are cut for Hopper: rules found by measurement on an H100, plain numbers.

Knows nothing of tensors or launches.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

WIDEST = 256  # weight rows that one product of the tensor cores takes
SHARED = 225 << 10  # bytes a ring may have in shared memory
GATED_SHARED = (4 * 48 + 4 * 8 + 1) << 10  # bytes of gated.cu's ring and results, and what aligns them
_DEPTH = 64  # inputs a stage


class Skinny(NamedTuple):
    """`width` weight rows a tile, `share` blocks that share its inputs, `groups` of 64 rows of x."""

    width: int
    share: int
    groups: int

    @property
    def stages(self) -> int:
        return min(16, SHARED // self.stage)

    @property
    def stage(self) -> int:
        """bytes"""
        return (64 * self.groups + self.width) * _DEPTH * 2

    @property
    def shared(self) -> int:
        """bytes: the ring, or the sums that are spread there, and what aligns it"""
        sums = 64 * self.groups * (self.width + 8) * 4 if self.share > 1 else 0
        return max(self.stages * self.stage, sums) + 1024


@cache
def cut_skinny(m: int, n_out: int, k: int, gated: bool, processors: int) -> Skinny:
    """One tile a processor where a matrix has so many, the same number of tiles each where it has more.

    Long or narrow matrices are shared by clusters, of which not every one of four finds its place on a chip.
    """
    share = 4 if n_out <= _NARROW else 2 if k > 2 * n_out else 1
    room = (processors - processors // 11) // share if share == 4 else processors // share
    step, widest = 16 if share == 4 else 8, WIDEST // (2 if gated else 1)
    least = 64 if share == 4 else 32
    rounds = 1
    while (outs := max(least, _up(-(-n_out // (room * rounds)), step))) > widest:
        rounds += 1
    return Skinny(outs * (2 if gated else 1), share, 1 if m <= 64 else 2)


_NARROW = 2048  # outputs: fewer would leave most processors without a tile


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def fills(m: int, n_out: int, processors: int) -> bool:
    """Whether gate and up of m rows go well together: in tiles of 256 by 128 outputs, a pair of processors
    each, few pairs are without one in the last round. Up to 256 rows, where bytes count, that weighs less."""
    pairs = processors // 2
    tiles = -(-m // 256) * -(-n_out // 128)
    rounds = -(-tiles // pairs)
    return m > 128 and tiles >= (0.8 if m <= 256 else 0.9) * rounds * pairs
