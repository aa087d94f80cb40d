"""The small kernels of a step on a GPU: norm, gate, angles, entry into attention, 8-bit rows.

`python bench/kernels_small.py` checks each against its reference on poisoned memory, then prints
microseconds a launch in a graph with early starts ("chained") and without ("apart"), beside the
time its bytes need. Block sizes of `enter` are tried one by one. JSON goes to $OUT.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from bench.gpu_timing import keep, microseconds
from octavo.ops.activation import silu_mul
from octavo.ops.enter import enter
from octavo.ops.norm import rms_norm
from octavo.ops.rope import rope_angles
from octavo.ops.triton import activation, norm, quant, rope
from octavo.ops.triton import enter as entry

RATE = 3.05e6  # bytes a microsecond
EPS = 1e-5
ROWS = (1, 8, 64, 256, 4096)
MODELS = {"8b": (4096, 32, 8, 14336, False), "06b": (1024, 16, 8, 3072, True)}


class Case(NamedTuple):
    name: str
    nbytes: int
    ours: Callable[[], Any]
    reference: Callable[[], Any]
    view: Callable[[Any], torch.Tensor] = lambda y: y  # of our result, to compare
    bound: float = 0.01


def poison(nbytes: int = 256 << 20) -> None:
    """What is allocated next holds NaN (bytes of ones) until it is written."""
    waste = torch.full((nbytes,), 255, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    del waste


def cases(model: str, n: int) -> list[Case]:
    hidden, heads, kv, wide, normed_heads = MODELS[model]
    x = torch.randn(n, hidden, device="cuda").bfloat16()
    g = torch.randn(n, 2 * wide, device="cuda").bfloat16()
    gain = torch.randn(hidden, device="cuda").bfloat16()
    positions = torch.randint(0, 100000, (n,), device="cuda")
    inverse = 500000.0 ** -(torch.arange(0, 128, 2, device="cuda").float() / 128)
    qkv = torch.randn(n, (heads + 2 * kv) * 128, device="cuda").bfloat16()
    angles = rope_angles.reference(positions, inverse, 1.0, torch.float32)
    gains = [torch.randn(128, device="cuda").bfloat16() if normed_heads else None for _ in range(2)]
    cache = torch.zeros(n // 16 + 2, 16, 2, kv, 128, device="cuda").bfloat16()
    slots = 16 + torch.randperm(n, device="cuda")

    def plain_norm() -> torch.Tensor:
        return rms_norm.reference(x, gain, EPS)

    into = (cache[:, :, 0], cache[:, :, 1], slots)
    eight = x.nbytes * 3 // 2
    found = [
        Case("rms_norm", x.nbytes * 2, lambda: norm.normed(x, gain, EPS), plain_norm),
        Case("silu_mul", g.nbytes * 3 // 2, lambda: activation.gated(g, "silu"),
             lambda: silu_mul.reference(g)),
        Case("rope_angles", angles.nbytes, lambda: rope.angles(positions, inverse, 1, torch.float32),
             lambda: angles),
        Case("norm to 8", eight, lambda: quant.quantise(x, gain, EPS), plain_norm, widened, 0.07),
        Case("rows to 8", eight, lambda: quant.quantise(x), lambda: x, widened, 0.07),
    ]  # fmt: skip
    for block in (2, 4, 8, 16, 48):
        found.append(Case(
            f"enter {block}", qkv.nbytes * 2 + angles.nbytes,
            lambda b=block: entry.entered(qkv, angles, *gains, 1e-6, heads, kv, *into, block=b),
            lambda: enter.reference(qkv, angles, *gains, 1e-6, heads, kv, *into),
        ))  # fmt: skip
    return found


def widened(made: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return made[0].float() * made[1]


def error_of(got: torch.Tensor, want: torch.Tensor) -> float:
    error = ((got.float() - want.float()).abs().max() / want.float().abs().max()).item()
    return error if error == error else float("inf")


def apart(call: Callable[[], Any]) -> float:
    """Without early starts."""
    modules = (norm, activation, rope, entry, quant)
    kept = norm.early
    for module in modules:
        module.early = lambda x: False
    try:
        return microseconds([call], launches=40)
    finally:
        for module in modules:
            module.early = kept


def main() -> None:
    table = []
    with torch.inference_mode():
        for model in MODELS:
            for n in ROWS:
                for case in cases(model, n):
                    poison()
                    error = error_of(case.view(case.ours()), case.reference())
                    floor, chained = case.nbytes / RATE, microseconds([case.ours], launches=40)
                    line = {"model": model, "rows": n, "op": case.name, "error": error, "floor": floor,
                            "chained": chained, "apart": apart(case.ours)}  # fmt: skip
                    table.append(line)
                    verdict = "" if error < case.bound else "  WRONG"
                    print(f"{model:4}{n:5} {case.name:12} floor {floor:7.2f} chained {chained:7.2f} "
                          f"apart {line['apart']:7.2f} error {error:.1e}{verdict}", flush=True)  # fmt: skip
    keep("small.json", table)


if __name__ == "__main__":
    main()
