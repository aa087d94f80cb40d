"""The products in CUDA C++ on a Hopper, beside cuBLAS: a layer's products, and gate and up of many rows.

`python bench/kernels_hopper.py layer|gated [--rows 17,32,64,128]` prints a line each; everything goes to
$OUT as JSON. `layer` runs in a graph, over weights that do not fit the cache. `gated` runs each form for a
while in turn: it is the card's power that bounds it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.gpu_timing import keep, microseconds
from bench.kernels_matmul import SHAPES, Shape
from octavo.ops.activation import GATES
from octavo.ops.cuda import matmul as hopper
from octavo.ops.matmul import linear, project
from octavo.ops.norm import rms_norm
from octavo.ops.triton import attach, matmul

__all__ = ["attach"]  # the kernels

LAYERS = 16  # their weights rotate
TURN = 0.3  # seconds


def drawn(*shape: int) -> Tensor:
    return torch.empty(*shape, device="cuda", dtype=torch.bfloat16).normal_(std=shape[-1] ** -0.5)


class Projection:
    def __init__(self, s: Shape, m: int) -> None:
        self.s, self.weight = s, drawn(s.n * (2 if s.act else 1), s.k)
        self.x = drawn(m, s.k)
        self.gain = drawn(s.k) if s.norm else None
        self.residual = drawn(m, s.n) if s.add else None

    def ours(self) -> None:
        if self.s.add:
            linear(self.x, self.weight, None, self.residual)
        else:
            project(self.x, self.weight, gain=self.gain, eps=1e-6, act=self.s.act)

    def library(self) -> None:
        x = self.x if self.gain is None else rms_norm(self.x, self.gain, 1e-6)
        if self.residual is not None:
            self.residual.addmm_(x, self.weight.t())
        elif self.s.act:
            GATES[self.s.act](F.linear(x, self.weight))
        else:
            F.linear(x, self.weight)


def layers(model: str, rows: list[int]) -> list[dict[str, Any]]:
    """Microseconds a layer: norms, projections, activation."""
    found = []
    for m in rows:
        shapes = [s for s in SHAPES if s.model == model and not s.wide]
        made = [[Projection(s, m) for s in shapes] for _ in range(LAYERS)]
        line: dict[str, Any] = {"model": model, "rows": m}
        for name in ("library", "ours"):
            calls = [partial(_each, [getattr(p, name) for p in layer]) for layer in made]
            line[name] = round(microseconds(calls), 2)
        print(line, flush=True)
        found.append(line)
    return found


def _each(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()


def many(m: int, n: int, k: int) -> list[dict[str, Any]]:
    """Microseconds of gate and up with silu, in turns; the first turn is warm-up."""
    x, weights = drawn(m, k), [drawn(2 * n, k) for _ in range(4)]
    forms: dict[str, Callable[[int], object]] = {
        "cublas": lambda i: F.linear(x, weights[i % 4]),
        "cublas, silu": lambda i: GATES["silu"](F.linear(x, weights[i % 4])),
        "ours": lambda i: hopper.gated(x, weights[i % 4], "silu"),
    }
    found = []
    for turn in range(4):
        line: dict[str, Any] = {"rows": m, "outputs": n, "inputs": k, "turn": turn}
        for name, run in forms.items():
            line[name] = round(_sustained(run), 1)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("layer", "gated"))
    parser.add_argument("--rows", default="17,32,64,128")
    args = parser.parse_args()
    matmul.reserve(torch.device("cuda"))
    if args.what == "layer":
        rows = [int(m) for m in args.rows.split(",")]
        keep("hopper_layer.json", [line for model in ("8b", "06b") for line in layers(model, rows)])
    else:
        keep("hopper_gated.json", [*many(8192, 14336, 4096), *many(8192, 3072, 1024)])


if __name__ == "__main__":
    main()
