"""How skinny products are cut into programs: frozen from measurements on an H100, plain numbers.

Knows nothing of tensors or launches.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Vec(NamedTuple):
    """One row: a program makes `rows` outputs, `columns` inputs at a time."""

    rows: int
    columns: int
    warps: int


class Few(NamedTuple):
    """Up to 16 rows: a program makes `tile` outputs, each of its warps `depth` inputs at a time."""

    tile: int
    depth: int
    warps: int


class Dot(NamedTuple):
    """A few rows: tiles of `tile` outputs by `depth` inputs, `stages` of them in flight.

    `fill` programs a processor share all steps equally; 0: one program a tile. `ahead`: steps
    fetched into L2 before the kernel's turn. `engine`: tiles come through the copy engine (TMA).
    """

    tile: int
    depth: int
    warps: int
    stages: int
    fill: int
    ahead: int = 2
    engine: bool = True


MOST_FEW = 16  # rows
_SHARERS = (1, 2, 3, 4, 6, 8, 12, 16)


def pad_rows(m: int) -> int:
    """The tensor cores' width for m rows."""
    return 16 if m <= 16 else 32 if m <= 32 else 64


def steps_of(cut: Dot, n_out: int, k: int) -> tuple[int, int]:
    """(steps a tile, steps in all)"""
    steps = -(-k // cut.depth)
    return steps, steps * -(-n_out // cut.tile)


def programs_of(cut: Dot, n_out: int, k: int, processors: int) -> int:
    steps, total = steps_of(cut, n_out, k)
    tiles = total // steps
    if not cut.fill:
        return tiles
    most = total // max(1, -(-steps // (_SHARERS[-1] - 1)))  # so that no tile has too many sharers
    return max(1, min(total, most, processors * cut.fill))


def sharers_of(cut: Dot, n_out: int, k: int, programs: int) -> int:
    """A bound on the programs that share a tile, from few values (each is compiled for itself)."""
    steps, total = steps_of(cut, n_out, k)
    run, rest = divmod(total, programs)
    if rest == 0 and run % steps == 0:
        return 1
    exact = steps // run if rest == 0 and steps % run == 0 else (steps - 2) // run + 2
    return next(s for s in _SHARERS if s >= min(exact, steps))


Cut = Vec | Few | Dot


def choose_cut(
    m: int, n_out: int, k: int, dtype: torch.dtype, gated: bool, both: bool = False, few: bool = False
) -> Cut:
    """For m rows and weights of that dtype. `both`: the rows have 8 bits, too; `few`: the weights can go
    straight into registers."""
    if few:
        return cut_few(m, n_out, k, gated)
    if both:
        return _both_eight(m, gated)
    return cut_vec(n_out, k, dtype, gated) if m == 1 else cut_dot(m, n_out, k, dtype, gated)


def cut_few(m: int, n_out: int, k: int, gated: bool) -> Few:
    """For 2 to 16 rows and weights, both of 16 bits."""
    deep = 256 if m <= 8 and n_out <= k else 128  # what widens follows a norm: its gain takes registers
    if n_out >= _HEAD:
        return Few(16, 128, 8 if k > 2048 and m <= 8 else 4)
    if gated:
        return Few(16, 128, 4) if k <= 2048 else Few(32, 64, 4)
    if k > 8192:
        return Few(16 if m <= 8 else 32, 128, 8)
    if n_out < k and n_out * k < _LARGE:
        return Few(16, deep, 8)
    return Few(16, deep, 4)


def worth(m: int, n_out: int, k: int, dtype: torch.dtype, gated: bool) -> bool:
    """Whether our kernels are faster than cuBLAS and what would stand around it."""
    if m <= 16 or dtype.itemsize == 1:
        return True
    large = n_out * k >= _LARGE
    if m <= 32:
        return gated or n_out >= _HEAD or not large
    return n_out >= _HEAD or (gated and large)


_LARGE = 1 << 24  # weights: a matrix whose bytes outlast a launch
_HEAD = 1 << 16  # outputs: a vocabulary


def cut_vec(n_out: int, k: int, dtype: torch.dtype, gated: bool) -> Vec:
    """For one row."""
    if dtype.itemsize == 4:
        return Vec(2, 2048, 8) if k >= 1024 else Vec(2, 1024, 8)
    if dtype.itemsize == 1:
        if gated:
            return Vec(2, 1024, 1)
        return Vec(2, 2048, 4) if k > 4096 else Vec(4, 1024, 1 if n_out > k else 2)
    if n_out >= _HEAD:
        return Vec(2, min(2048, _power(k)), 4)
    if gated:
        return Vec(2, 4096, 8) if k >= 4096 else Vec(2, 512, 2)
    if k <= 1024:
        return Vec(8, 1024, 2)
    if n_out * k > _LARGE:
        return Vec(4, 4096, 8) if k <= 4096 else Vec(4, 2048, 4)
    return Vec(2, 1024, 2) if k >= 4096 else Vec(4, 2048, 4)


def _power(k: int) -> int:
    return 1 << (k - 1).bit_length()


def cut_dot(m: int, n_out: int, k: int, dtype: torch.dtype, gated: bool) -> Dot:
    """For 2 to 64 rows."""
    if dtype.itemsize == 1:
        return _eight(m, k, gated)
    if n_out >= _HEAD:
        return Dot(64, 128, 4, 3 if m <= 32 else 2, 0, 1)
    large = n_out * k >= _LARGE
    if gated:
        return _gated(m, large)
    if m > 32:
        return Dot(64, 256 if k > 4096 else 128, 4, 3, 1)
    if large:
        return Dot(64, 256, 4, 5 if n_out > 4096 and m <= 16 else 4, 1)
    if m > 16:
        return Dot(16, 256, 2, 3, 0) if k <= 1024 else Dot(32, 256, 4, 2, 3, 1)
    return Dot(32, 256, 2, 3, 0) if k <= 1024 else Dot(32, 256, 4, 2, 4, 1)


def _eight(m: int, k: int, gated: bool) -> Dot:
    if gated:
        return Dot(64, 128, 4, 2, 4, 2, False) if m <= 16 else Dot(64, 128, 4, 3, 2)
    if m > 16:
        return Dot(64, 128, 4, 4, 2, 1 if k <= 4096 else 2)
    return Dot(64, 128, 4, 4, 4, 1) if k <= 4096 else Dot(64, 128, 4, 3, 4)


def _both_eight(m: int, gated: bool) -> Dot:
    """Nothing is converted: only the bytes in flight count, and how often the rows are read."""
    if m > 32:
        return Dot(64, 128, 4, 3, 2, 1) if gated else Dot(128, 128, 8, 4, 1, 1)
    if gated:
        return Dot(64, 256, 4, 4, 1) if m <= 16 else Dot(64, 128, 4, 4, 2, 1)
    return Dot(64, 512, 4, 4, 1) if m <= 16 else Dot(64, 128, 4, 5, 3, 1)


def _gated(m: int, large: bool) -> Dot:
    if not large:
        return Dot(32, 128, 4, 2, 4, 1) if m <= 16 else Dot(16, 512, 4, 3, 1, 1)
    return Dot(16, 256, 2, 3, 0) if m <= 16 else Dot(32, 128, 2 if m <= 32 else 4, 3 if m <= 32 else 2, 0)
