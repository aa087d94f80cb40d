"""Drawing tokens on a GPU: workspace, shapes of launches, and the kernels in order.

Semantics are those of ops/sample.py. Everything here can be captured in a CUDA graph: grids depend on
shapes alone, and the workspace is allocated once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from octavo.ops.triton.launch import early, interpreted
from octavo.ops.triton.sample_narrow import narrow
from octavo.ops.triton.sample_plan import PIVOTS, PLAN
from octavo.ops.triton.sample_scan import GREEDY, RANDOM, scan, scan_mass
from octavo.ops.triton.sample_wide import wide

LIST = 4096  # tokens of a nucleus that one program holds; larger ones are searched in passes
MOST = 1024  # noise blocks that are read again for it
PARTS, PROGRAMS = 64, 2048  # programs that search one row, and all rows, at most
ROUNDS = 4  # rounds of a search that many programs do; nearly no row needs more
STEP = 512  # logits that a program of a search reads at once
REGISTERS = 128  # of a thread: two programs of 8 warps share a multiprocessor


class Shape(NamedTuple):
    """How a scan is cut: noise blocks of a tile, and warps of a program; warps of a program of `narrow`."""

    columns: int
    warps: int
    row_warps: int = 8


class Launch(NamedTuple):
    """A kernel and all it is given."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    options: dict[str, Any]

    def run(self) -> None:
        self.kernel[self.grid](*self.args, **self.options)


class Workspace:
    """What kernels of one step tell each other, for up to `rows` rows of `vocab` logits."""

    def __init__(self, rows: int, vocab: int, device: torch.device | str) -> None:
        def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.vocab = vocab
        self.blocks = -(-vocab // 32)
        tiles = triton.cdiv(self.blocks, 32)
        self.columns = zeros(rows, self.blocks, dtype=torch.float32)
        self.found = zeros(rows, self.blocks, dtype=torch.int32)
        self.values = zeros(rows, tiles, dtype=torch.float32)
        self.sums = zeros(rows, tiles, dtype=torch.float32)
        self.tokens = zeros(rows, tiles, dtype=torch.int32)
        self.listed = zeros(rows, LIST, dtype=torch.float32)
        self.ids = zeros(rows, LIST, dtype=torch.int32)
        self.state = zeros(rows, dtype=torch.int32)
        self.plans = zeros(rows, PLAN.value, dtype=torch.int64)
        self.shares = zeros(_programs(rows) * PIVOTS.value, dtype=torch.float64)
        self.arrived = zeros(rows, dtype=torch.int32)
        self.sizes = zeros(rows, dtype=torch.int32)

    @staticmethod
    def nbytes(rows: int, vocab: int) -> int:
        """For the memory plan."""
        return rows * (-(-vocab // 32) * 9 + LIST * 8 + 256) + _programs(rows) * int(PIVOTS.value) * 8


def _programs(rows: int) -> int:
    """At least as many as a round of a search has for so many rows, or for fewer."""
    return max(4 * rows, PROGRAMS)


def parts_of(rows: int, vocab: int) -> int:
    """Programs that share a row in a round of a search."""
    return max(1, min(PARTS, -(-vocab // STEP), max(4, PROGRAMS >> (rows - 1).bit_length())))


# Measured from 1 to 256 rows of 128 and 152 thousand logits: within 3 % of the best for every number of rows.
# Who draws with noise needs more than one warp for the end.
PLAIN_SHAPE, NOISE_SHAPE, MASS_SHAPE = Shape(64, 1), Shape(128, 4), Shape(128, 4)


class Batch(NamedTuple):
    """What is drawn from: logits [m, vocab] float32, slots [m] int32, positions [m] int64, the parameters of
    slots, and where tokens go [m] int32."""

    logits: Tensor
    owners: Tensor
    positions: Tensor
    words: Tensor
    out: Tensor


def plain(batch: Batch, work: Workspace, noise: bool, first: bool, shape: Shape | None = None) -> Launch:
    """For greedy rows, and with `noise` untruncated ones. `first`: kernels begin early (launch.py)."""
    logits, owners, positions, words, out = batch
    rows, blocks = len(logits), work.blocks
    cut = shape or (NOISE_SHAPE if noise else PLAIN_SHAPE)
    tiles = triton.cdiv(blocks, cut.columns)
    pdl = {"EARLY": first, **({"launch_pdl": True} if first else {})}
    given = (
        logits, logits.stride(0), owners, positions, words, work.columns, work.values, work.tokens,
        work.found, work.arrived, out,
    )  # fmt: skip
    options = {
        "VOCAB": work.vocab, "COLUMNS": cut.columns, "TILES": tiles,
        "TILES_UP": triton.next_power_of_2(tiles), "MODE": (RANDOM if noise else GREEDY).value,
        "REAL": not interpreted(), "num_warps": cut.warps, **pdl,
    }  # fmt: skip
    return Launch(scan, (tiles, rows), given, options)


def truncated(batch: Batch, work: Workspace, first: bool, shape: Shape | None = None) -> list[Launch]:
    """For rows of every kind, truncated ones included."""
    logits, owners, positions, words, out = batch
    rows, blocks = len(logits), work.blocks
    cut = shape or MASS_SHAPE
    tiles, stride = triton.cdiv(blocks, cut.columns), logits.stride(0)
    pdl = {"VOCAB": work.vocab, "EARLY": first, **({"launch_pdl": True} if first else {})}
    scanned = work.columns, work.values, work.tokens, work.sums
    lists = work.listed, work.ids, work.plans, work.state
    look = Launch(
        scan_mass, (tiles, rows), (logits, stride, owners, words, *scanned),
        {**pdl, "TILES": tiles, "COLUMNS": cut.columns, "num_warps": cut.warps},
    )  # fmt: skip
    few = Launch(
        narrow, (rows,), (logits, stride, owners, positions, words, *scanned, work.found, *lists, out),
        {**pdl, "TILES": tiles, "TILES_UP": triton.next_power_of_2(tiles), "MOST": MOST, "LIST": LIST,
         "WIDTH": triton.next_power_of_2(blocks), "GROUP": 16, "CHUNK": 256, "num_warps": cut.row_warps,
         "maxnreg": REGISTERS},
    )  # fmt: skip
    given = (
        logits, stride, owners, positions, words, work.columns, work.found, *lists, work.shares, work.arrived,
        work.sizes, out,
    )  # fmt: skip
    options = {
        **pdl, "STEP": STEP, "LIST": LIST, "PARTS_UP": PARTS, "REAL": not interpreted(), "num_warps": 8,
        "maxnreg": REGISTERS,
    }  # fmt: skip
    search = Launch(wide, (parts_of(rows, work.vocab), rows), (*given, 0), options)
    draw = Launch(wide, (1, rows), (*given, 1), options)
    return [look, few, *[search] * ROUNDS, draw]


def draw(batch: Batch, work: Workspace, variant: str, shape: Shape | None = None) -> None:
    """Fills batch.out. `variant`: "greedy", "random", or what serves all kinds of rows, "truncated"."""
    first = early(batch.logits)
    if variant == "truncated":
        launches = truncated(batch, work, first, shape)
    else:
        launches = [plain(batch, work, variant == "random", first, shape)]
    for launch in launches:
        launch.run()
