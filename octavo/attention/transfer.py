"""The only place where an attention backend takes values to the host.

For the CPU backend this is a read of its own memory; the oracle does not care what it costs.
A backend for a device reads true lengths in its kernels instead.
"""

from __future__ import annotations

from itertools import pairwise

from octavo.nn.forward import Forward


def rows_on_host(f: Forward, group: int) -> list[tuple[int, int, int]]:
    """(begin, end, context length after the step) of every row; begin == end where it is empty."""
    starts, lengths = f.row_start.tolist(), f.groups[group].lengths.tolist()
    return [(begin, end, length) for (begin, end), length in zip(pairwise(starts), lengths, strict=True)]
