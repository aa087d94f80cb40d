"""Gate and up of many rows with their activation, in one kernel and by cuBLAS, on a Hopper.

`python bench/kernels_hopper.py` prints a line a turn; everything goes to $OUT as JSON. Each form runs for a
while in turn: it is the card's power that bounds it. For products of fewer rows see kernels_matmul.py, stack.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.gpu_timing import keep
from octavo.ops.cuda import matmul as hopper
from octavo.ops.triton.activation import gated

SHAPES = ((8192, 14336, 4096), (8192, 3072, 1024))  # rows, outputs, inputs
TURN = 0.3  # seconds


def drawn(*shape: int) -> Tensor:
    return torch.empty(*shape, device="cuda", dtype=torch.bfloat16).normal_(std=shape[-1] ** -0.5)


def many(m: int, n: int, k: int) -> list[dict[str, Any]]:
    """Microseconds of gate and up with silu, in turns; the first turn is warm-up."""
    x, weights = drawn(m, k), [drawn(2 * n, k) for _ in range(4)]
    forms: dict[str, Callable[[int], object]] = {
        "cublas": lambda i: F.linear(x, weights[i % 4]),
        "cublas, silu": lambda i: gated(F.linear(x, weights[i % 4]), "silu"),
        "ours": lambda i: hopper.gated(x, weights[i % 4], "silu"),
    }
    found = []
    for turn in range(4):
        line: dict[str, Any] = {"rows": m, "outputs": n, "inputs": k, "turn": turn}
        line |= {name: round(_sustained(run), 1) for name, run in forms.items()}
        print(line, flush=True)
        found.append(line)
    return found[1:]


def _sustained(run: Callable[[int], object]) -> float:
    run(0)
    torch.cuda.synchronize()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < TURN:
        for _ in range(8):
            run(count)
            count += 1
        torch.cuda.synchronize()
    return (time.perf_counter() - began) * 1e6 / count


if __name__ == "__main__":
    keep("hopper_gated.json", [line for shape in SHAPES for line in many(*shape)])
