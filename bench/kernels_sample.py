"""The sampling kernels on a GPU: checked against numpy on fresh inputs, then timed over launch shapes.

`python bench/kernels_sample.py [--only cold,check,plain,parts,truncated,rest] [--out FILE]` prints tables
and writes JSON (to $OUT/kernels_sample.json where OUT is set). Times are microseconds a call inside a
captured graph that walks over more logits than the L2 cache holds; `hot` walks over one set, as after the
head's product.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import triton
from torch import Tensor

from bench.record import provenance, write
from octavo.core.messages import Admission
from octavo.core.request import Sampling
from octavo.ops.triton import sample
from octavo.ops.triton.launch import early
from octavo.ops.triton.sample import Batch, Shape
from octavo.sampling.device.logprobs import score
from octavo.sampling.device.sampler import DeviceSampler
from octavo.sampling.sampler import Sampler
from octavo.sampling.stage import Rows

BANDWIDTH = 3.05e12
LENGTH = 2048
LAUNCHES = 24
DRAWS: dict[str, list[dict[str, Any]]] = {
    "greedy": [dict(temperature=0.0)],
    "random": [dict(temperature=0.6), dict(), dict(temperature=1.5), dict(temperature=0.0)],
    "top_k 50": [dict(top_k=50)],
    "top_k 20 top_p 0.95": [dict(temperature=0.6, top_k=20, top_p=0.95)],
    "top_p 0.9": [dict(top_p=0.9)],
    "min_p 0.05": [dict(min_p=0.05)],
    "top_k 4000": [dict(top_k=4000, top_p=0.99)],
    "all kinds": [
        dict(top_k=5), dict(), dict(temperature=0.0), dict(top_p=0.6), dict(min_p=0.2, top_p=0.9),
        dict(top_k=30, top_p=0.7, min_p=0.01), dict(top_p=0.999), dict(top_k=1),
    ],
}  # fmt: skip


class Case:
    """A batch of rows in slots of their own, and everything the sampler is given."""

    def __init__(self, rows: int, vocab: int, kinds: list[dict[str, Any]], seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.known = rng.integers(2, LENGTH - 1, rows)
        self.history = rng.integers(0, min(vocab, 3000), (rows, LENGTH)).astype(np.int32)
        self.admissions = [
            Admission(
                slot=i,
                tokens=tuple(self.history[i, : self.known[i]].tolist()),
                prompt=int(self.known[i]) // 2,
                start=0,
                seed=int(rng.integers(0, 2**63 - 1)),
                sampling=Sampling(**kinds[i % len(kinds)]),
            )
            for i in range(rows)
        ]
        self.sampler = DeviceSampler(rows, vocab, torch.from_numpy(self.history).cuda(), torch.device("cuda"))
        for a in self.admissions:
            self.sampler.admit(a)
        self.sampler.flush()
        self.variant = self.sampler.variant(np.arange(rows), False)
        self.owners = torch.arange(rows, dtype=torch.int32, device="cuda")
        self.positions = torch.from_numpy(self.known).cuda()
        self.out = torch.full((rows,), -7, dtype=torch.int32, device="cuda")

    def draw(self, logits: Tensor, shape: Shape | None = None) -> Tensor:
        s = self.sampler
        if self.variant == "full":
            s.sample(logits, self.owners, self.positions, "full", out=self.out)
            return self.out
        sample.draw(self.batch(logits), s._work, self.variant, shape)
        return self.out

    def batch(self, logits: Tensor) -> Batch:
        return Batch(logits, self.owners, self.positions, self.sampler._params.words, self.out)

    def rounds(self, logits: Tensor) -> list[int]:
        """How many rows are still searched after each launch of a search."""
        left = []
        for launch in sample.truncated(self.batch(logits), self.sampler._work, early(logits))[:-1]:
            launch.run()
            left.append(int((self.sampler._work.state[: len(logits)] == 1).sum()))
        return left[1:]

    def nuclei(self, logits: Tensor, cut: np.ndarray) -> int:
        """How many tokens more or less than numpy's a search kept, over all rows that were searched."""
        work, differ = self.sampler._work, 0
        for row in torch.nonzero(work.state[: len(logits)] == 2).flatten().tolist():
            divisor = np.float32(self.admissions[row].sampling.temperature)
            keys = (logits[row].cpu().numpy() / divisor + np.float32(0)).view(np.int32).astype(np.int64)
            keys ^= (keys >> 31) & 0x7FFFFFFF
            edge, last = work.plans[row, 6:8].tolist()
            kept = (keys > edge) | ((keys == edge) & (np.arange(len(keys)) <= last))
            differ += int((kept != (cut[row] > -np.inf)).sum())
        return differ

    def reference(self, logits: np.ndarray) -> np.ndarray:
        slots = np.arange(len(logits))
        sampler = Sampler(len(slots))
        for a in self.admissions:
            sampler.admit(a)
        return sampler.sample(logits, Rows(slots, self.known, self.known, self.history))


def logits_of(rows: int, vocab: int, spread: float, seed: int) -> Tensor:
    """Normal logits; a negative spread: rounded, so that many are equal."""
    torch.manual_seed(seed)
    x = torch.randn(rows, vocab, device="cuda") * abs(spread)
    return x.round() if spread < 0 else x


EDITED = [
    dict(repetition_penalty=1.2, temperature=0.0),
    dict(frequency_penalty=0.5, presence_penalty=0.3, top_p=0.9),
    dict(logit_bias=((5, 3.0), (11, -100.0)), bad_words=((7,), (1, 2)), min_tokens=3000, eos=(2, 9)),
    dict(allowed_token_ids=tuple(range(0, 1000, 7)), top_k=10),
]


def check(results: list[dict[str, Any]]) -> None:
    print("check: rows that differ from numpy's (spread: standard deviation of the logits, < 0: with ties)")
    print("       wide: rows whose nucleus was searched; tokens: of all nuclei, those kept by one side alone")
    for vocab, rows in ((151936, 12), (128256, 9), (50257, 16), (1000, 64), (31, 16)):
        for name, kinds in {**DRAWS, "edited": EDITED}.items():
            line = []
            for seed, spread in enumerate((0.3, 3.0, 8.0, -2.0)):
                case = Case(rows, vocab, kinds if vocab > 1000 or name != "edited" else [{}], seed)
                logits = logits_of(rows, vocab, spread, seed + vocab)
                case.sampler._work.columns.fill_(float("nan"))
                case.sampler._work.values.fill_(float("nan"))
                case.sampler._work.listed.fill_(float("nan"))
                host = logits.cpu().numpy().copy()
                want = case.reference(host)
                got = case.draw(logits)[:rows].cpu().numpy()
                wide = int((case.sampler._work.state[:rows] == 2).sum()) if case.variant == "truncated" else 0
                tokens = case.nuclei(logits, host) if wide else 0
                differ = int((got != want).sum())
                line.append(f"{spread:5.1f}: {differ}" + (f" ({wide} wide, {tokens} tokens)" if wide else ""))
                results.append(
                    dict(
                        kind="check",
                        vocab=vocab,
                        rows=rows,
                        draw=name,
                        spread=spread,
                        differ=differ,
                        wide=wide,
                        tokens=tokens,
                    )
                )
            print(f"  {vocab:7} x {rows:3} {name:22}", "  ".join(line), flush=True)
    worst = [r for r in results if r["kind"] == "check" and r["differ"]]
    print("check:", f"{len(worst)} cases DIFFER" if worst else "all equal")


def timed(run: Callable[[int], Any], launches: int = LAUNCHES, repeats: int = 7) -> float:
    """Median microseconds of one `run(i)` inside a graph of `launches` of them."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run(0)
        run(1)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(launches):
            run(i)
    taken = []
    for _ in range(repeats + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end) * 1000 / launches)
    return sorted(taken[2:])[repeats // 2]


def sets_of(rows: int, vocab: int, spread: float) -> list[Tensor]:
    """More logits than the cache holds; made by shuffling whole rows of one another's lines."""
    count = max(2, -(-200_000_000 // (rows * vocab * 4)))
    block = logits_of(min(rows * count, 1024), vocab, spread, rows)
    return [block[[(i * rows + r) % len(block) for r in range(rows)]].contiguous() for i in range(count)]


PLAIN = [(32, 1), (64, 1), (64, 2), (128, 2), (128, 4), (256, 4), (256, 8)]


def plain(results: list[dict[str, Any]]) -> None:
    for vocab in (151936,):
        for rows in (1, 8, 64, 256):
            data = sets_of(rows, vocab, 3.0)
            floor = rows * vocab * 4 / BANDWIDTH * 1e6
            for name in ("greedy", "random"):
                case = Case(rows, vocab, DRAWS[name][:1])
                line = []
                for columns, warps in PLAIN:
                    shape = Shape(columns, warps)
                    cold = timed(lambda i, c=case, s=shape, d=data: c.draw(d[i % len(d)], s))
                    hot = timed(lambda i, c=case, s=shape, d=data: c.draw(d[0], s)) if rows <= 8 else cold
                    line.append((cold, hot, shape))
                    results.append(
                        dict(kind="plain", vocab=vocab, rows=rows, draw=name, cold=cold, hot=hot, shape=shape)
                    )
                line.sort(key=lambda entry: entry[0])
                best = "  ".join(f"{s.columns}/{s.warps} {c:.1f} hot {h:.1f}" for c, h, s in line[:4])
                default = timed(lambda i, c=case, d=data: c.draw(d[i % len(d)]))
                print(
                    f"  {vocab} x {rows:3} {name:7} floor {floor:6.1f}  now {default:6.1f}  best {best}",
                    flush=True,
                )


def parts(results: list[dict[str, Any]]) -> None:
    """What each kernel of a draw takes, from a profile of single calls."""
    from torch.profiler import ProfilerActivity, profile

    for rows in (1, 256):
        for name in ("greedy", "random", "top_k 50", "top_p 0.9", "all kinds"):
            case = Case(rows, 151936, DRAWS[name])
            data = sets_of(rows, 151936, 3.0)
            case.draw(data[0])
            torch.cuda.synchronize()
            with profile(activities=[ProfilerActivity.CUDA]) as seen:
                for i in range(10):
                    case.draw(data[i % len(data)])
                torch.cuda.synchronize()
            taken = {e.key: e.self_device_time_total / e.count for e in seen.key_averages() if e.count >= 10}
            results.append(dict(kind="parts", rows=rows, draw=name, us=taken))
            print(
                f"  parts 151936 x {rows:3} {name:22}", {k: round(v, 1) for k, v in taken.items()}, flush=True
            )


TRUNCATED = [Shape(128, 4, 8), Shape(128, 4, 16), Shape(256, 8, 8)]


def truncated(results: list[dict[str, Any]]) -> None:
    print("truncated: searched: rows that still are after `narrow` and after each round; shapes and times")
    vocab = 151936
    for rows in (1, 8, 64, 256):
        for spread in (0.3, 3.0, 8.0):
            data = sets_of(rows, vocab, spread)
            for name in [n for n in DRAWS if n not in ("greedy", "random")]:
                case, line = Case(rows, vocab, DRAWS[name]), []
                for shape in TRUNCATED if name == "top_k 50" and spread == 3.0 else TRUNCATED[:1]:
                    taken = timed(lambda i, c=case, s=shape, d=data: c.draw(d[i % len(d)], s), repeats=5)
                    line.append((taken, shape))
                    results.append(
                        dict(kind="truncated", rows=rows, spread=spread, draw=name, cold=taken, shape=shape)
                    )
                line.sort(key=lambda entry: entry[0])
                left = case.rounds(data[0])
                best = "  ".join(f"{s.columns}/{s.warps}/{s.row_warps} {t:.1f}" for t, s in line)
                print(
                    f"  {vocab} x {rows:3} spread {spread} {name:20} searched {left} {best}",
                    flush=True,
                )


def rest(results: list[dict[str, Any]]) -> None:
    for rows in (1, 64, 256):
        vocab = 151936
        data = sets_of(rows, vocab, 3.0)
        tokens = torch.arange(rows, device="cuda")
        scores = {}
        for alternatives in (0, 20):
            score(data[0], tokens, alternatives)
            torch.cuda.synchronize()
            began = time.perf_counter()
            for i in range(10):
                score(data[i % len(data)], tokens, alternatives)
            torch.cuda.synchronize()
            scores[alternatives] = (time.perf_counter() - began) * 1e5
        edited = Case(rows, vocab, EDITED)
        edited.draw(data[0].clone())
        torch.cuda.synchronize()
        began = time.perf_counter()
        for i in range(10):
            edited.draw(data[i % len(data)])
        host = (time.perf_counter() - began) * 1e5
        torch.cuda.synchronize()
        full = (time.perf_counter() - began) * 1e5
        argmax = timed(lambda i, d=data: torch.argmax(d[i % len(d)], 1))
        results.append(dict(kind="rest", rows=rows, score=scores, full=full, host=host, argmax=argmax))
        print(
            f"  rows {rows:3}: score {scores[0]:.0f}, with 20 {scores[20]:.0f}  "
            f"full (eager) {full:.0f}, host {host:.0f}  torch.argmax {argmax:.1f}", flush=True,
        )  # fmt: skip


PARTS: dict[str, Callable[[list[dict[str, Any]]], None]] = {
    "check": check, "plain": plain, "parts": parts, "truncated": truncated, "rest": rest,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    out = args.out or (Path(os.environ["OUT"]) / "kernels_sample.json" if "OUT" in os.environ else None)
    results: list[dict[str, Any]] = []
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "triton", triton.__version__)
    for name in args.only.split(","):
        began = time.perf_counter()
        PARTS[name](results)
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    if out is not None:
        write(out, {**provenance(), "gpu": torch.cuda.get_device_name(), "results": results})
    return int(any(r["kind"] == "check" and r["differ"] for r in results))


if __name__ == "__main__":
    raise SystemExit(main())
