"""Drawing tokens on a GPU: workspace, shapes of launches, and the kernels in order.

Semantics are those of ops/sample.py. Everything here can be captured in a CUDA graph: grids depend on
shapes alone, and the workspace is allocated once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from octavo.ops.triton.sample_finish import finish
from octavo.ops.triton.sample_scan import GREEDY, RANDOM, scan


class Shape(NamedTuple):
    """How a launch is cut: noise blocks of a tile and warps of a program; warps of a row's program."""

    columns: int
    warps: int
    row_warps: int


class Workspace:
    """What kernels of one step tell each other, for up to `rows` rows of `vocab` logits."""

    def __init__(self, rows: int, vocab: int, device: torch.device | str) -> None:
        self.vocab = vocab
        self.blocks = -(-vocab // 32)
        tiles = triton.cdiv(self.blocks, 32)
        self.columns = torch.zeros((rows, self.blocks), dtype=torch.float32, device=device)
        self.found = torch.zeros((rows, self.blocks), dtype=torch.int32, device=device)
        self.values = torch.zeros((rows, tiles), dtype=torch.float32, device=device)
        self.sums = torch.zeros((rows, tiles), dtype=torch.float32, device=device)
        self.tokens = torch.zeros((rows, tiles), dtype=torch.int32, device=device)

    @staticmethod
    def nbytes(rows: int, vocab: int) -> int:
        """For the memory plan."""
        return rows * -(-vocab // 32) * 9


def plain_shape(rows: int, blocks: int) -> Shape:
    """Few rows: many small tiles, for latency. Many rows: tiles that keep many bytes in flight."""
    if rows * blocks <= 64 * 1024:
        return Shape(64, 1, 8)
    return Shape(128, 1, 8)


def draw_plain(
    logits: Tensor,
    owners: Tensor,
    positions: Tensor,
    words: Tensor,
    out: Tensor,
    work: Workspace,
    *,
    noise: bool,
    shape: Shape | None = None,
) -> None:
    """Greedy rows, and with `noise` untruncated ones: logits [m, vocab] float32 -> out [m] int32."""
    rows, blocks = len(logits), work.blocks
    cut = shape or plain_shape(rows, blocks)
    tiles = triton.cdiv(blocks, cut.columns)
    mode = RANDOM if noise else GREEDY
    scan[(tiles, rows)](
        logits, logits.stride(0), owners, positions, words, work.columns, work.values, work.tokens,
        VOCAB=work.vocab, TILES=tiles, COLUMNS=cut.columns, MODE=mode, num_warps=cut.warps,
    )  # fmt: skip
    finish[(rows,)](
        logits, logits.stride(0), owners, positions, words, work.columns, work.values, work.tokens,
        work.found, out, VOCAB=work.vocab, TILES=tiles, TILES_UP=triton.next_power_of_2(tiles),
        WIDTH=triton.next_power_of_2(blocks), MODE=mode, num_warps=cut.row_warps,
    )  # fmt: skip
