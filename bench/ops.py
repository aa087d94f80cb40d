"""The native kernels: packed products against torch, a whole model's prefill and decode, and the floor.

`python bench/ops.py [--model FILE.gguf] [--threads N] [--level NAME] [--out FILE]` prints JSON.
Times are medians of alternating runs. The floor of decode is what the same threads take to
read as many bytes; that of a product counts weights once.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.nn import functional as F

from bench.record import provenance, spread, write
from octavo.checkpoint.gguf import GGUFCheckpoint
from octavo.models.native import NativeDecoder
from octavo.models.packed import Storage
from octavo.models.registry import MODELS
from octavo.nn.forward import Forward, GroupInputs, HostBounds
from octavo.nn.protocols import CacheSpec
from octavo.ops.cpu.find import find_library
from octavo.ops.cpu.lib import Engine, Library, Memory, PackedWeight, linear

SHAPES = ((576, 576), (3072, 576), (576, 1536), (49152, 576))
ROWS = (1, 8, 16, 512)
FORMATS = ("BF16", "INT8", "Q8_0", "Q4_0", "Q4_1", "Q6_K")
PAGE = 16


def alternate(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Each call once a round, in turn: seconds."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - began)
    return {name: spread(seconds) for name, seconds in taken.items()}


def products(library: Library, engine: Engine, rounds: int) -> list[dict[str, Any]]:
    """One matrix of each shape and format; torch multiplies bfloat16."""
    results, memory = [], Memory()
    for n, k in SHAPES:
        plain = torch.randn(n, k).bfloat16()
        weights = {f: PackedWeight(library, f, n, k, memory) for f in FORMATS if f != "Q6_K" or k % 256 == 0}
        engine.pack(weights["BF16"], plain, 0)
        for m in ROWS if n < 10000 else ROWS[:3]:
            x = torch.randn(m, k)
            calls: dict[str, Callable[[], Any]] = {
                f: lambda w=w, x=x: linear(engine, x, w) for f, w in weights.items()
            }
            narrow = x.bfloat16()
            calls["torch BF16"] = lambda x=narrow, w=plain: F.linear(x, w)
            times = alternate(calls, rounds)
            for name, taken in times.items():
                bytes_ = weights[name].data.nbytes if name in weights else plain.nbytes
                results.append({"op": name, "m": m, "n": n, "k": k, "seconds": taken,
                                "GB/s": round(bytes_ / taken["median"] / 1e9, 2),
                                "GOP/s": round(2 * m * n * k / taken["median"] / 1e9, 1)})  # fmt: skip
    return results


class Model:
    """The decoder with a cache of its own, as the runner would drive it."""

    def __init__(self, path: Path, library: Library, engine: Engine) -> None:
        checkpoint = GGUFCheckpoint(str(path))
        spec = MODELS.get(checkpoint.hf.architecture).read(checkpoint.hf)
        specs = tuple(
            CacheSpec(f"model.layers.{i}.self_attn", spec.kv_heads, spec.head_dim) for i in range(spec.layers)
        )
        began = time.perf_counter()
        self.decoder = NativeDecoder(
            spec, specs, checkpoint, library, engine, page=PAGE, cache=torch.bfloat16, storage=Storage()
        )
        self.load_seconds = time.perf_counter() - began
        self.bytes = sum(t.nbytes for t in checkpoint.index.values())
        shape = (16 * 64 + 1, 2, spec.kv_heads, PAGE, spec.head_dim)
        memory = Memory()
        self._caches = {
            s.name: memory.take(2 * torch.Size(shape).numel()).view(torch.bfloat16).view(shape) for s in specs
        }

    def step(self, rows: list[tuple[int, int]]) -> None:
        """rows: (first position, count) of each stream; row i owns 64 pages."""
        starts = torch.tensor([0] + [c for _, c in rows]).cumsum(0).int()
        positions = torch.cat([torch.arange(s, s + c) for s, c in rows])
        tables = (1 + torch.arange(len(rows) * 64).view(-1, 64)).int()
        lengths = torch.tensor([s + c for s, c in rows]).int()
        f = Forward(
            (positions * 7919) % 40000, positions, starts, (starts[1:] - 1).long(),
            (GroupInputs(lengths, tables, positions),), self._caches,
            HostBounds(len(rows), len(positions), 0, 0),
        )  # fmt: skip
        self.decoder.logits(self.decoder.forward(f).index_select(0, f.logits_at))


def read_rate(nbytes: int, rounds: int) -> float:
    """Bytes a second that torch's threads read, the best of several."""
    data = torch.ones(nbytes // 8, dtype=torch.int64)
    return nbytes / alternate({"read": lambda: data.sum()}, rounds)["read"]["min"]


def whole(model: Model, rounds: int) -> dict[str, Any]:
    """Tokens a second of prefill and of decode at 1, 8 and 16 streams, context 128."""
    calls: dict[str, Callable[[], Any]] = {"prefill 512": lambda: model.step([(0, 512)])}
    for n in (1, 8, 16):
        calls[f"decode x{n}"] = lambda n=n: model.step([(128, 1)] * n)
    tokens = {"prefill 512": 512, "decode x1": 1, "decode x8": 8, "decode x16": 16}
    times = alternate(calls, rounds)
    return {
        name: {"seconds": taken, "tokens/s": round(tokens[name] / taken["median"], 1)}
        for name, taken in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--level")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-products", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    library = find_library()
    if isinstance(library, str):
        raise SystemExit(f"no native library: {library}")
    torch.set_num_threads(args.threads)
    engine = Engine(library, args.threads, args.level)
    result: dict[str, Any] = {**provenance(), "level": engine.level, "threads": args.threads}
    with torch.inference_mode():
        if not args.no_products:
            result["products"] = products(library, engine, args.rounds)
        if args.model:
            model = Model(args.model, library, engine)
            rate = read_rate(model.bytes, args.rounds)
            result["load_seconds"] = model.load_seconds
            result["read GB/s"] = round(rate / 1e9, 2)
            result["decode floor tokens/s"] = round(rate / model.bytes, 1)
            result["model"] = whole(model, args.rounds * 3)
    if args.out:
        write(args.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
