"""The attention kernels on a GPU: every candidate checked against the definition, then timed by shape.

`python bench/kernels_attention.py [--only PARTS] [--out FILE]`, where PARTS are some of
check,compile,work,decode,prefill,prefix,fp8, prints tables and writes JSON (to
$OUT/kernels_attention.json where OUT is set). Times are microseconds a launch inside a
captured graph that walks over layers of a cache larger than L2. Results go to ops/triton/attention_tune.py.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from bench.attention_candidates import decode_candidates, prefill_candidates, prefix_candidates, variations
from bench.attention_check import check
from bench.attention_step import (
    BANDWIDTH,
    BF16,
    LLAMA,
    QWEN,
    Decoder,
    Rows,
    Step,
    processors,
    run_prefill,
    run_prefix,
    timed,
    warm,
    workers,
)
from bench.record import provenance, write
from octavo.ops.triton.attention_tune import decode_config, prefill_config, prefix_config
from tests.kernels.attention_case import FP8


def spread_rows(low: int, high: int, n: int) -> Rows:
    return [(1, low + (high - low) * i // max(1, n - 1)) for i in range(n)]


DECODE: dict[str, tuple[tuple[int, int], Rows]] = {
    "1x300": (LLAMA, [(1, 300)]),
    "1x300 qwen": (QWEN, [(1, 300)]),
    "1x2000": (LLAMA, [(1, 2000)]),
    "1x32k": (LLAMA, [(1, 32768)]),
    "1x128k": (LLAMA, [(1, 131072)]),
    "8x300": (LLAMA, [(1, 300)] * 8),
    "8x4000": (LLAMA, [(1, 4000)] * 8),
    "64x640": (LLAMA, [(1, 640)] * 64),
    "64x640 qwen": (QWEN, [(1, 640)] * 64),
    "256x640": (LLAMA, [(1, 640)] * 256),
    "256x100-2048": (LLAMA, spread_rows(100, 2048, 256)),
    "256x100-2048 qwen": (QWEN, spread_rows(100, 2048, 256)),
    "1x100k+63x500": (LLAMA, [(1, 100000)] + [(1, 500)] * 63),
}
PREFILL: dict[str, tuple[tuple[int, int], Rows]] = {
    "4x2048": (LLAMA, [(2048, 2048)] * 4),
    "4x2048 qwen": (QWEN, [(2048, 2048)] * 4),
    "1x8192": (LLAMA, [(8192, 8192)]),
    "16x512": (LLAMA, [(512, 512)] * 16),
    "64x128": (LLAMA, [(128, 128)] * 64),
    "1x128": (LLAMA, [(128, 128)]),
    "2048 at 16k": (LLAMA, [(2048, 16384)]),
    "128x64 at 4k": (LLAMA, [(64, 4160)] * 128),
    "200 decode + 1848": (LLAMA, [(1, 500)] * 200 + [(1848, 1848)]),
}


PREFIX = ((128, 4096, 96), (32, 4096, 96), (8, 4096, 96), (256, 1024, 300))  # rows, shared, own


def measure(
    candidates: Iterable[Any], run: Callable[[Any], float], unit: Callable[[float], str], chosen: Any
) -> dict[str, Any]:
    """All candidates and what the tables choose; one that needs too much shared memory is only told."""
    runs: list[tuple[float, Any]] = []
    for config in candidates:
        try:
            runs.append((run(config), config))
        except Exception as error:
            print(f"    cannot: {tuple(config)}: {type(error).__name__} {str(error)[:90]}")
            torch.cuda.synchronize()
    runs.sort(key=lambda row: row[0])
    ours = run(chosen)
    for us, config in runs[:4]:
        print(f"    {us:9.2f} us  {unit(us)}  {tuple(config)}")
    print(f"    {ours:9.2f} us  {unit(ours)}  chosen: {tuple(chosen)}", flush=True)
    return {"chosen": ours, "runs": [{"us": round(us, 3), "config": c._asdict()} for us, c in runs]}


def time_decode(result: dict[str, Any], kind: torch.dtype = BF16, only: Sequence[str] = ()) -> None:
    for name in only or DECODE:
        shape, rows = DECODE[name]
        step, label = Step(rows, shape, cache=kind), f"decode {name} {str(kind)[6:]}"
        floor = step.bytes / BANDWIDTH * 1e6
        print(f"{label}: floor {floor:.2f} us, {step.layers} layers", flush=True)

        def run(config: Any, step: Step = step) -> float:
            return timed(Decoder(step, config).launch, step.layers)

        def share(us: float, floor: float = floor) -> str:
            return f"{100 * floor / us:5.1f} % of 3.05 TB/s"

        chosen = decode_config(len(rows), step.d, kind.itemsize)
        first = measure(decode_candidates(), run, share, chosen)
        best = type(chosen)(**first["runs"][0]["config"])
        second = measure(variations(best), run, share, best)
        result[label] = {"floor": floor, "cuts": first, "variations": second}


def time_work(result: dict[str, Any]) -> None:
    for rows in (1, 8, 64, 256, 1024):
        decoder = Decoder(Step([(1, 50)] * rows, LLAMA), decode_config(rows, 128, 2))
        us = timed(lambda _, d=decoder: d.work(), 1)
        print(f"work list of {rows} rows: {us:.2f} us", flush=True)
        result[f"work {rows}"] = us


def time_prefill(result: dict[str, Any], kind: torch.dtype = BF16, only: Sequence[str] = ()) -> None:
    for name in only or PREFILL:
        shape, rows = PREFILL[name]
        step, label = Step(rows, shape, cache=kind), f"prefill {name} {str(kind)[6:]}"
        flops = step.flops()
        print(f"{label}: {flops / 1e9:.1f} GFLOP", flush=True)

        def run(config: Any, step: Step = step) -> float:
            return timed(lambda layer: run_prefill(step, layer, config), step.layers, 8)

        def rate(us: float, flops: float = flops) -> str:
            return f"{flops / us / 1e6:6.1f} TFLOP/s"

        chosen = prefill_config(
            step.tokens,
            max(c for c, _ in rows),
            max(n for _, n in rows),
            step.d,
            shape[0] // shape[1],
            kind.itemsize,
        )
        result[label] = {"flops": flops, **measure(prefill_candidates(), run, rate, chosen)}
        if len(set(rows)) == 1 and rows[0][0] == rows[0][1]:
            for which, us in yardsticks(len(rows), rows[0][0], shape, step.d):
                print(f"    {us:9.2f} us  {rate(us)}  torch, contiguous: {which}", flush=True)
                result[label][which] = us


def yardsticks(rows: int, n: int, shape: tuple[int, int], d: int) -> Iterator[tuple[str, float]]:
    """What torch takes for as many whole prompts that lie contiguous and are equally long."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    q, k, v = (
        torch.randn(rows, n, heads, d, device="cuda", dtype=BF16).transpose(1, 2)
        for heads in (shape[0], shape[1], shape[1])
    )
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
        try:
            with sdpa_kernel(backend):
                yield backend.name, timed(lambda _: sdpa(q, k, v, is_causal=True, enable_gqa=True), 1, 8)
        except Exception as error:
            print(f"    no {backend.name}: {str(error)[:90]}")


def time_prefix(result: dict[str, Any]) -> None:
    for rows, shared, own in PREFIX:
        step = Step([(1, shared + own)] * rows, LLAMA, shared=shared // 16)
        config = decode_config(rows, step.d, 2)
        single = timed(Decoder(step, config).launch, step.layers)
        label = f"prefix {rows} x ({shared} shared + {own})"
        print(f"{label}: {single:.1f} us row by row", flush=True)
        after = Decoder(step, config, shared=True)

        def run(config: Any, step: Step = step, after: Decoder = after) -> float:
            return timed(lambda layer: run_prefix(step, layer, config, after), step.layers)

        def gain(us: float, single: float = single) -> str:
            return f"{single / us:5.2f} x as fast"

        chosen = prefix_config(rows, step.d, 4, 8, 2, processors())
        rest = timed(after.launch, step.layers)
        print(f"    {rest:9.2f} us  the rest of the rows alone")
        result[label] = {
            "row by row": single,
            "rest": rest,
            **measure(prefix_candidates(), run, gain, chosen),
        }


def time_fp8(result: dict[str, Any]) -> None:
    time_decode(result, FP8, ("256x640", "1x2000"))
    time_prefill(result, FP8, ("4x2048",))


def compile_all(result: dict[str, Any]) -> None:
    """Everything that is timed later, in several processes."""
    decode = list(decode_candidates())
    decode += [config._replace(fused=False) for config in decode]
    tasks = [("decode", c, shape, BF16) for c in decode for shape in (LLAMA, QWEN)]
    tasks += [("decode", c, LLAMA, FP8) for c in decode]
    tasks += [("prefill", c, shape, BF16) for c in prefill_candidates() for shape in (LLAMA, QWEN)]
    tasks += [("prefill", c, LLAMA, FP8) for c in prefill_candidates()]
    tasks += [("prefix", c, LLAMA, BF16) for c in prefix_candidates()]
    seen: dict[Any, Any] = {}
    for kind, config, shape, cache in tasks:  # what is not compiled in comes once
        plain = config._replace(per_sm=1) if kind == "decode" else config
        seen[kind, plain, shape, cache] = None
    with workers() as pool:
        for problem in pool.map(warm, seen):
            if problem:
                print(f"    {problem}", flush=True)


PARTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "check": check,
    "compile": compile_all,
    "work": time_work,
    "decode": time_decode,
    "prefill": time_prefill,
    "prefix": time_prefix,
    "fp8": time_fp8,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    folder = os.environ.get("OUT")
    out = args.out or (Path(folder) / "kernels_attention.json" if folder else None)
    result: dict[str, Any] = {**provenance(), "gpu": torch.cuda.get_device_name()}
    with torch.inference_mode():
        for name in args.only.split(","):
            began = time.perf_counter()
            PARTS[name](result)
            print(f"[{name}: {time.perf_counter() - began:.1f} s]", flush=True)
            if out:
                write(out, result)


if __name__ == "__main__":
    main()
