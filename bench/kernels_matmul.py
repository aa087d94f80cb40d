"""Skinny products on a GPU: checks every cut, finds the fastest for each shape, times whole layer stacks.

`python bench/kernels_matmul.py check|search|stack|many [--rows 1,8,16,32,64] [--only 8b|06b]
[--weights bf16|fp8]` prints tables; everything measured goes to $OUT as JSON. `search` takes its
candidates from what fits shared memory; the winners belong into octavo/ops/triton/matmul_cut.py.
`many` times torch's 8-bit products.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.nn import functional as F

from bench.gpu_timing import compile_all, copies_of, keep, microseconds
from octavo.ops.matmul import head_logits, project
from octavo.ops.norm import rms_norm
from octavo.ops.quant import project_eight
from octavo.ops.triton import attach, matmul
from octavo.ops.triton.activation import gated
from octavo.ops.triton.matmul import Terms, multiply
from octavo.ops.triton.matmul_cut import (
    MOST_FEW,
    Cut,
    Dot,
    Few,
    Vec,
    choose_cut,
    pad_rows,
    programs_of,
    sharers_of,
)
from octavo.ops.triton.quant import quantise

__all__ = ["attach"]  # the kernels of the ops

RATE = 3.05e6  # bytes a microsecond that an H100 reads
SHARED = 220 << 10  # bytes of shared memory a processor has for tiles


class Shape(NamedTuple):
    """A projection of a model: `act` gated, `wide` to float32, `norm` before, `add` a residual."""

    model: str
    name: str
    n: int
    k: int
    act: str | None = None
    wide: bool = False
    norm: bool = False
    add: bool = False


SHAPES = (
    Shape("8b", "qkv", 6144, 4096, norm=True),
    Shape("8b", "out", 4096, 4096, add=True),
    Shape("8b", "gate_up", 14336, 4096, act="silu", norm=True),
    Shape("8b", "down", 4096, 14336, add=True),
    Shape("8b", "head", 128256, 4096, wide=True, norm=True),
    Shape("06b", "qkv", 4096, 1024, norm=True),
    Shape("06b", "out", 1024, 2048, add=True),
    Shape("06b", "gate_up", 3072, 1024, act="silu", norm=True),
    Shape("06b", "down", 1024, 3072, add=True),
    Shape("06b", "head", 151936, 1024, wide=True, norm=True),
)
LAYERS = {"8b": 32, "06b": 28}


class Job(NamedTuple):
    shape: Shape
    m: int
    eight: bool
    cut: Cut


def weights_of(s: Shape, eight: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    rows = s.n * (2 if s.act else 1)
    weight = torch.empty(rows, s.k, device="cuda", dtype=torch.bfloat16).normal_(std=s.k**-0.5)
    if not eight:
        return weight, None
    return (weight * 64).to(torch.float8_e4m3fn), torch.full((rows,), 1 / 64, device="cuda")


def inputs_of(s: Shape, m: int, scale: torch.Tensor | None) -> tuple[torch.Tensor, Terms]:
    x = torch.randn(m, s.k, device="cuda", dtype=torch.bfloat16)
    residual = torch.randn(m, s.n, device="cuda", dtype=torch.bfloat16) if s.add else None
    gain = torch.randn(s.k, device="cuda", dtype=torch.bfloat16) if s.norm and m == 1 else None
    terms = Terms(scale, None, residual, gain, 1e-6, s.act, torch.float32 if s.wide else None)
    if scale is None or m == 1:
        return x, terms
    rows, row_scale = quantise(x)  # 8 bits on both sides
    return rows, terms._replace(x_scale=row_scale, dtype=terms.dtype or x.dtype)


def eight_of(s: Shape, eight: bool) -> bool:
    return eight and not s.wide  # heads stay in 16 bits


def plain_of(s: Shape, m: int, scale: torch.Tensor | None) -> tuple[torch.Tensor, Terms]:
    """For the search: only what changes the cut, so that fewer kernels need compiling."""
    return inputs_of(s._replace(wide=False, add=False, norm=s.norm and m == 1), m, scale)


def compile_job(job: Job) -> None:
    weight, scale = weights_of(job.shape, job.eight)
    x, terms = plain_of(job.shape, job.m, scale)
    multiply(x, weight, terms, job.cut)


def truth(x: torch.Tensor, weight: torch.Tensor, t: Terms) -> torch.Tensor:
    h = x.float() if t.x_scale is None else x.float() * t.x_scale
    if t.gain is not None:
        h = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + t.eps) * t.gain.float()
    y = h @ weight.float().T
    y = y if t.scale is None else y * t.scale
    if t.act:
        gate, up = y.chunk(2, -1)
        y = F.silu(gate) * up
    return y if t.residual is None else y + t.residual.float()


def error_of(y: torch.Tensor, want: torch.Tensor) -> float:
    """Of the largest value; infinite where something was not written."""
    error = ((y.float() - want).abs().max() / want.abs().max()).item()
    return error if error == error else float("inf")


def vec_candidates(s: Shape, size: int) -> list[Vec]:
    halves = 2 if s.act else 1
    found = []
    for rows in (1, 2, 4, 8, 16):
        for columns in (512, 1024, 2048, 4096):
            for warps in (1, 2, 4, 8) if size == 1 else (2, 4, 8):
                each = rows * columns * halves // (32 * warps)  # elements a thread holds
                if 32 <= each <= 128 and columns <= s.k and columns * size // (32 * warps) >= 16:
                    found.append(Vec(rows, columns, warps))
    return found


def few_candidates(s: Shape) -> list[Few]:
    halves = 2 if s.act else 1
    cuts = itertools.product((16, 32), (64, 128, 256), (2, 4, 8, 16))
    return [
        Few(tile, depth, warps)
        for tile, depth, warps in cuts
        if tile * depth * halves <= 8192 and 8192 <= tile * depth * halves * warps <= 65536
        and warps * depth <= max(s.k, 512)
    ]  # fmt: skip


def dot_candidates(s: Shape, m: int, size: int) -> list[Dot]:
    halves, rows = (2 if s.act else 1), pad_rows(m)
    found = []
    for tile in (16, 32, 64, 128, 256):
        for depth in (64, 128, 256, 512):
            bytes_ = tile * depth * size * halves
            for fill in (0, 1, 2, 3, 4):
                many = fill or 3
                stages = min(8, SHARED // many // (bytes_ + depth * rows * 2))
                flying = many * (stages - 1) * bytes_
                fits = stages >= 2 and flying >= 48 << 10 and tile * rows * halves <= 16384
                if fits and 8192 <= bytes_ // halves <= 65536 and (fill or s.n >= tile * 100):
                    warps = 8 if tile * rows * halves > 8192 else 4
                    cut = Dot(tile, depth, warps, stages, fill)
                    if lean(cut, s, rows, size):
                        found.append(cut)
    return found


def lean(cut: Dot, s: Shape, rows: int, size: int) -> bool:
    """Whether registers suffice: for sums of all sharers at once, and for weights that are widened."""
    halves, threads = (2 if s.act else 1), 32 * cut.warps
    sharers = sharers_of(cut, s.n, s.k, programs_of(cut, s.n, s.k, 132))
    widened = cut.tile * cut.depth * halves // threads if size == 1 else 0
    return cut.tile * rows * sharers // threads <= 256 and widened <= 256


def neighbours(cut: Cut) -> list[Cut]:
    """What the second round tries around a good cut."""
    if not isinstance(cut, Dot):
        return []
    changes: list[dict[str, Any]] = [{"ahead": a} for a in (0, 1, 4, 8)]
    changes += [{"warps": 12 - cut.warps}] if cut.tile >= 64 else []
    changes += [{"stages": cut.stages - 1}] if cut.stages > 2 else []
    changes += [{"engine": False}] if cut.tile >= 64 else []
    changes += [{"warps": 2}] if cut.tile <= 32 else []
    return [cut._replace(**c) for c in changes]


def time_jobs(s: Shape, m: int, eight: bool, cuts: list[Cut]) -> list[tuple[float, float, Cut]]:
    """(microseconds, error, cut), fastest first; cuts that do not fit the device are left out."""
    eight = eight_of(s, eight)
    weight, scale = weights_of(s, eight)
    sets = [weight, *(weight.clone() for _ in range(copies_of(weight.nbytes) - 1))]
    x, terms = plain_of(s, m, scale)
    want = truth(x, weight, terms)
    out = torch.empty(m, s.n, device="cuda", dtype=terms.dtype or x.dtype)
    found = []
    for cut in cuts:
        try:
            out.fill_(float("nan"))
            multiply(x, weight, terms, cut, out)
            error = error_of(out, want)
            calls = [lambda w=w, c=cut: multiply(x, w, terms, c, out) for w in sets]
            found.append((microseconds(calls), error, cut))
        except Exception as problem:  # too much shared memory, say: not a candidate
            if "out of resource" not in str(problem):
                print("  skipped", cut, repr(problem)[:160])
    return sorted(found, key=lambda f: f[0])


def cublas(s: Shape, m: int) -> float:
    weight, _ = weights_of(s, False)
    sets = [weight, *(weight.clone() for _ in range(copies_of(weight.nbytes) - 1))]
    x = torch.randn(m, s.k, device="cuda", dtype=torch.bfloat16)
    return microseconds([lambda w=w: F.linear(x, w) for w in sets])


def floor_of(s: Shape, size: int) -> float:
    return s.n * s.k * size * (2 if s.act else 1) / RATE


def candidates(s: Shape, m: int, size: int) -> list[Cut]:
    if m == 1:
        return list(vec_candidates(s, size))
    if m <= MOST_FEW and size == 2:
        return [*few_candidates(s), *dot_candidates(s, m, size)]
    return list(dot_candidates(s, m, size))


def search(shapes: list[Shape], rows: list[int], eight: bool) -> None:
    began = time.perf_counter()
    size = {s: 1 if eight_of(s, eight) else 2 for s in shapes}
    plans = {(s, m): candidates(s, m, size[s]) for s in shapes for m in rows}
    results: dict[tuple[Shape, int], list[tuple[float, float, Cut]]] = {cell: [] for cell in plans}
    for turn in ("first", "second"):
        jobs = unlike(Job(s, m, size[s] == 1, c) for (s, m), cuts in plans.items() for c in cuts)
        compile_all(compile_job, jobs)
        print(f"{turn} round: {len(jobs)} compiled by {time.perf_counter() - began:.0f} s", flush=True)
        for (s, m), cuts in plans.items():
            results[s, m] = sorted(results[s, m] + time_jobs(s, m, eight, cuts), key=lambda f: f[0])
        found = [(s.model, s.name, m, [(f[0], brief(f[2])) for f in fs]) for (s, m), fs in results.items()]
        keep(f"matmul_{turn}_{'fp8' if eight else 'bf16'}.json", found)
        plans = {
            c: list(dict.fromkeys(n for f in found[:3] for n in neighbours(f[2])))
            for c, found in results.items()
        }
    keep(
        f"matmul_search_{'fp8' if eight else 'bf16'}.json",
        [report(s, m, size[s], f) for (s, m), f in results.items()],
    )
    print(f"done in {time.perf_counter() - began:.0f} s")


def report(s: Shape, m: int, size: int, found: list[tuple[float, float, Cut]]) -> dict[str, Any]:
    """Prints a line of the table."""
    floor, library = floor_of(s, size), cublas(s, m)
    dtype = torch.float8_e4m3fn if size == 1 else torch.bfloat16
    few = 1 < m <= MOST_FEW and size == 2
    chosen = choose_cut(m, s.n, s.k, dtype, s.act is not None, size == 1 and m > 1, few)
    now = next((f[0] for f in found if f[2] == chosen), 0.0)
    wrong = [f for f in found if f[1] > 1e-2]
    best = "".join(f" | {f[0]:.1f} {brief(f[2])}" for f in found[:3])
    print(f"{s.model:4}{s.name:8}m={m:<3}floor {floor:.1f} cublas {library:.1f} now {now:.1f}{best}")
    if wrong:
        print("   WRONG", [(brief(f[2]), f[1]) for f in wrong[:4]])
    return {"shape": s._asdict(), "m": m, "floor": floor, "cublas": library,
            "found": [(f[0], f[1], brief(f[2])) for f in found]}  # fmt: skip


def unlike(jobs: Iterable[Job]) -> list[Job]:
    """One job of those that compile to the same kernel."""
    return list({_variant(j): j for j in jobs}.values())


def _variant(j: Job) -> tuple[Any, ...]:
    s, cut = j.shape, j.cut
    if isinstance(cut, Vec):
        return (s.act, s.norm, j.eight, cut, s.k % cut.columns == 0)
    if isinstance(cut, Few):
        return (s.act, j.m <= 8, cut, s.k % (cut.depth * cut.warps) == 0)
    sharers = sharers_of(cut, s.n, s.k, programs_of(cut, s.n, s.k, 132))
    return (s.act, j.eight, pad_rows(j.m), cut._replace(fill=0), sharers, s.k % cut.depth == 0, j.m % 16 == 0)


def brief(cut: Cut) -> str:
    if isinstance(cut, Few):
        return f"F{cut.tile}x{cut.depth}w{cut.warps}"
    if isinstance(cut, Vec):
        return f"V{cut.rows}x{cut.columns}w{cut.warps}"
    return f"D{cut.tile}x{cut.depth}w{cut.warps}s{cut.stages}f{cut.fill}a{cut.ahead}" + (
        "" if cut.engine else "p"
    )


class Stack:
    """All products of a model's step and their norms, each with weights of its own, in the step's order."""

    def __init__(self, model: str, m: int, eight: bool) -> None:
        shapes = [s for s in SHAPES if s.model == model]
        self.calls, self.m = [], m
        x = {k: torch.randn(m, k, device="cuda", dtype=torch.bfloat16) for k in {s.k for s in shapes}}
        for s in [*shapes[:-1] * LAYERS[model], shapes[-1]]:
            weight, scale = weights_of(s, eight_of(s, eight))
            _, terms = inputs_of(s, m, scale)
            if s.norm:
                terms = terms._replace(gain=torch.randn(s.k, device="cuda", dtype=torch.bfloat16))
            self.calls.append((x[s.k], weight, terms))

    def ours(self) -> None:
        """As the model calls them: 8-bit products round their rows themselves."""
        for x, weight, t in self.calls:
            if t.scale is not None:
                project_eight(x, weight, t.scale, t.bias, t.residual, t.gain, t.eps, t.act)
            elif t.dtype is not None and t.gain is not None:
                head_logits(rms_norm(x, t.gain, t.eps), weight)
            else:
                project(x, weight, t.bias, t.residual, t.gain, t.eps, t.act)

    def library(self) -> None:
        for x, weight, t in self.calls:
            if t.gain is not None:
                x = rms_norm(x, t.gain, t.eps)
            if t.residual is not None:
                t.residual.addmm_(x, weight.t())
            elif t.act:
                gated(F.linear(x, weight), t.act)
            else:
                F.linear(x, weight)


def stack(models: list[str], rows: list[int], eight: bool) -> None:
    """Milliseconds of one step's products: with early starts, without, and cuBLAS."""
    table = []
    for model in models:
        for m in rows:
            made = Stack(model, m, eight)
            nbytes = sum(w.nbytes for _, w, _ in made.calls)
            line = {"model": model, "m": m, "floor": nbytes / RATE / 1e3}
            line["ours"] = microseconds([made.ours], launches=1) / 1e3
            early, matmul.early = matmul.early, lambda x: False
            line["not early"] = microseconds([made.ours], launches=1) / 1e3
            matmul.early = early
            if not eight:
                line["cublas"] = microseconds([made.library], launches=1) / 1e3
            print(
                " ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()),
                flush=True,
            )
            table.append(line)
            del made
            torch.cuda.empty_cache()
    keep(f"matmul_stack_{'fp8' if eight else 'bf16'}.json", table)


def scaled(s: Shape, m: int) -> dict[str, Any]:
    """Microseconds of torch's 8-bit products, with scales a row or a matrix, and of what stands around."""
    weight, scale = weights_of(s, True)
    assert scale is not None
    wide = torch.randn(m, s.k, device="cuda", dtype=torch.bfloat16)
    x, x_scale = quantise(wide)
    one = torch.full((), 1 / 64, device="cuda")
    sets = [weight, *(weight.clone() for _ in range(copies_of(weight.nbytes) - 1))]
    line: dict[str, Any] = {"name": s.name, "m": m, "floor": max(floor_of(s, 1), m * weight.numel() / 7.5e8)}
    whole = truth(x, weight, Terms(scale, x_scale=x_scale))
    for fast in (True, False):
        for name, a, b in (("row", x_scale, scale.view(1, -1)), ("one", one, one)):

            def call(
                w: torch.Tensor, a: torch.Tensor = a, b: torch.Tensor = b, fast: bool = fast
            ) -> torch.Tensor:
                return torch._scaled_mm(x, w.t(), a, b, out_dtype=torch.bfloat16, use_fast_accum=fast)

            if name == "row":
                assert error_of(call(weight), whole) < 2e-2, (s, m)
            line[f"{name}{'' if fast else ' exact'}"] = microseconds([lambda w=w, c=call: c(w) for w in sets])
    if s.act:
        both = torch.randn(m, 2 * s.n, device="cuda", dtype=torch.bfloat16)
        line["gate + round"] = microseconds([lambda: quantise(gated(both, "silu"))])
        line["as one"] = microseconds([lambda: quantise(both, act="silu")])
    if s.add:
        y, residual = (
            torch.randn(m, s.n, device="cuda").bfloat16(),
            torch.zeros(m, s.n, device="cuda").bfloat16(),
        )
        line["add"] = microseconds([lambda: residual.add_(y)])
    line["round"] = microseconds([lambda: quantise(wide)])
    line["bf16"] = cublas(s, m)
    return line


def many(models: list[str], rows: list[int]) -> None:
    """8-bit products of many rows."""
    table = [scaled(s, m) for s in SHAPES if s.model in models and not s.wide for m in rows]
    for line in table:
        print(
            " ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{v}" for k, v in line.items()), flush=True
        )
    keep("matmul_many.json", table)


def chain(m: int, layers: int, s: Shape, starts_early: bool) -> torch.Tensor:
    """Products that depend on each other, in one graph replayed thrice: a race would show in the bits."""
    torch.manual_seed(m)
    weights = [torch.randn(s.k, s.k, device="cuda").bfloat16() * s.k**-0.5 for _ in range(layers)]
    x = torch.randn(m, s.k, device="cuda").bfloat16()
    early, matmul.early = matmul.early, (matmul.early if starts_early else lambda x: False)
    first = x.clone()

    def step() -> torch.Tensor:
        h = first
        for i, w in enumerate(weights):
            h = multiply(h, w, Terms(residual=h, act=None) if i % 2 else Terms())
        return h

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = step()
    results = []
    for _ in range(3):
        graph.replay()
        results.append(y.clone())
    matmul.early = early
    assert all(torch.equal(r, results[0]) for r in results), "replays differ"
    return results[0]


def check(rows: list[int]) -> None:
    for s in (SHAPES[1], SHAPES[5]):
        for m in rows:
            assert torch.equal(chain(m, 40, s, True), chain(m, 40, s, False)), (
                f"early start changes results: {s}, {m}"
            )
            print(f"chain of {s.k}, {m} rows: early starts and replays give equal bits")
    worst = 0.0
    for s in SHAPES:
        for eight in (False, True):
            weight, scale = weights_of(s, eight_of(s, eight))
            for m in (1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 50, 63, 64):
                x, terms = inputs_of(s, m, scale)
                out = torch.full((m, s.n), float("nan"), device="cuda", dtype=terms.dtype or x.dtype)
                worst = max(
                    worst, error := error_of(multiply(x, weight, terms, None, out), truth(x, weight, terms))
                )
                if error > 1e-2:
                    print("WRONG", s, m, eight, error)
    print(f"largest error {worst:.2e} of the largest value")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("check", "search", "stack", "many"))
    parser.add_argument("--rows", default="1,8,16,32,64")
    parser.add_argument("--only", choices=tuple(LAYERS))
    parser.add_argument("--weights", choices=("bf16", "fp8"), default="bf16")
    args = parser.parse_args()
    rows = [int(r) for r in args.rows.split(",")]
    models = [args.only] if args.only else list(LAYERS)
    eight = args.weights == "fp8"
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.inference_mode():
        if args.what == "check":
            check(rows)
        elif args.what == "many":
            many(models, rows)
        elif args.what == "stack":
            stack(models, rows, eight)
        else:
            search([s for s in SHAPES if s.model in models], rows, eight)


if __name__ == "__main__":
    main()
