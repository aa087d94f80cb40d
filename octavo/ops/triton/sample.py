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
from octavo.ops.triton.sample_narrow import narrow
from octavo.ops.triton.sample_scan import GREEDY, RANDOM, scan, scan_mass
from octavo.ops.triton.sample_wide import wide

LIST = 4096  # tokens of a nucleus that one program holds; larger ones are searched in passes
MOST = 1024  # noise blocks that are read again for it


class Shape(NamedTuple):
    """How a launch is cut: noise blocks of a tile and warps of a program; warps of a row's program."""

    columns: int
    warps: int
    row_warps: int
    step: int = 1024  # logits of a pass that one program reads at once


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
        self.listed = torch.zeros((rows, LIST), dtype=torch.float32, device=device)
        self.ids = torch.zeros((rows, LIST), dtype=torch.int32, device=device)
        self.state = torch.zeros(rows, dtype=torch.int32, device=device)

    @staticmethod
    def nbytes(rows: int, vocab: int) -> int:
        """For the memory plan."""
        return rows * (-(-vocab // 32) * 9 + LIST * 8)


def mass_shape(rows: int, blocks: int) -> Shape:
    return Shape(128, 4, 8)


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


def draw_truncated(
    logits: Tensor,
    owners: Tensor,
    positions: Tensor,
    words: Tensor,
    out: Tensor,
    work: Workspace,
    *,
    shape: Shape | None = None,
) -> None:
    """Rows of every kind, truncated ones included."""
    rows, blocks, vocab = len(logits), work.blocks, work.vocab
    cut = shape or mass_shape(rows, blocks)
    tiles = triton.cdiv(blocks, cut.columns)
    tiles_up, width = triton.next_power_of_2(tiles), triton.next_power_of_2(blocks)
    stride = logits.stride(0)
    scan_mass[(tiles, rows)](
        logits, stride, owners, words, work.columns, work.values, work.tokens, work.sums,
        VOCAB=vocab, TILES=tiles, COLUMNS=cut.columns, num_warps=cut.warps,
    )  # fmt: skip
    narrow[(rows,)](
        logits, stride, owners, positions, words, work.columns, work.values, work.tokens, work.sums,
        work.found, work.listed, work.ids, work.state, out,
        VOCAB=vocab, TILES=tiles, TILES_UP=tiles_up, WIDTH=width, MOST=MOST, LIST=LIST, GROUP=16, CHUNK=256,
        num_warps=cut.row_warps,
    )  # fmt: skip
    wide[(rows,)](
        logits, stride, owners, positions, words, work.columns, work.values, work.sums,
        work.found, work.state, out,
        VOCAB=vocab, TILES=tiles, TILES_UP=tiles_up, WIDTH=width, STEP=cut.step, num_warps=cut.row_warps,
    )  # fmt: skip
