"""The attention kernels on a GPU: every candidate checked against the definition, then timed by shape.

`python bench/kernels_attention.py [--only PARTS] [--out FILE]`, where PARTS are some of check,check-fresh,
compile,compile-few,work,decode,few,fresh,prefill,prefix,fp8,fp8-decode, prints tables and writes JSON (to
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

from bench.attention_candidates import (
    decode_candidates,
    direct_candidates,
    fresh_candidates,
    prefill_candidates,
    prefix_candidates,
    variations,
)
from bench.attention_check import check, check_fresh
from bench.attention_step import (
    BANDWIDTH,
    BF16,
    LLAMA,
    QWEN,
    Decoder,
    FewRows,
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
from octavo.ops.triton.attention_direct import DirectConfig
from octavo.ops.triton.attention_gather import FreshConfig, gather
from octavo.ops.triton.attention_tune import (
    decode_config,
    direct_config,
    prefill_config,
    prefix_config,
)
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
    "16x300": (LLAMA, [(1, 300)] * 16),
    "16x2000 qwen": (QWEN, [(1, 2000)] * 16),
    "24x600": (LLAMA, [(1, 600)] * 24),
    "1x20k+15x500": (LLAMA, [(1, 20000)] + [(1, 500)] * 15),
    "64x640": (LLAMA, [(1, 640)] * 64),
    "64x640 qwen": (QWEN, [(1, 640)] * 64),
    "256x640": (LLAMA, [(1, 640)] * 256),
    "256x100-2048": (LLAMA, spread_rows(100, 2048, 256)),
    "256x100-2048 qwen": (QWEN, spread_rows(100, 2048, 256)),
    "1x100k+63x500": (LLAMA, [(1, 100000)] + [(1, 500)] * 63),
}
FEW = (
    "1x300", "1x300 qwen", "1x2000", "1x32k", "8x300", "8x4000", "16x300", "16x2000 qwen", "24x600",
    "1x20k+15x500",
)  # fmt: skip
PREFILL: dict[str, tuple[tuple[int, int], Rows]] = {
    "4x2048": (LLAMA, [(2048, 2048)] * 4),
    "4x2048 qwen": (QWEN, [(2048, 2048)] * 4),
    "mixed 8192": (LLAMA, [(n, n) for n in (3000, 700, 1800, 100, 1500, 1092)]),
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


def time_few(result: dict[str, Any], kind: torch.dtype = BF16, only: Sequence[str] = ()) -> None:
    """The kernel without a work list against the one with it, which also needs the list made."""
    for name in only or FEW:
        shape, rows = DECODE[name]
        step, label = Step(rows, shape, cache=kind), f"few rows {name} {str(kind)[6:]}"
        before = timed(Decoder(step, decode_config(len(rows), step.d, kind.itemsize)).launch, step.layers)
        print(f"{label}: {before:.2f} us by the work list, floor {step.bytes / BANDWIDTH * 1e6:.2f} us")

        def run(config: Any, step: Step = step) -> float:
            return timed(FewRows(step, config).launch, step.layers)

        def gain(us: float, before: float = before) -> str:
            return f"{before / us:5.2f} x as fast"

        chosen = direct_config(len(rows), step.d, kind.itemsize) or DirectConfig()
        result[label] = {"work list": before, **measure(direct_candidates(), run, gain, chosen)}


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


def fresh_times(step: Step) -> Iterator[tuple[str, float]]:
    """attention_fresh.py on keys that lie contiguous, and the best of it with their gathering."""
    from octavo.ops.triton.attention_fresh import fresh

    wide = torch.randn(step.tokens, 3 * step.kv_heads * step.d, device="cuda", dtype=BF16)
    keys, values = wide[:, : step.kv_heads * step.d].contiguous(), wide[:, -step.kv_heads * step.d :]
    slots = torch.randperm(step.tokens, device="cuda")

    def run(config: FreshConfig, keys: torch.Tensor) -> None:
        fresh(step.q, keys, values, step.out, step.lengths, step.row_start, config, scale=step.d**-0.5)

    best = (float("inf"), FreshConfig())
    for config in fresh_candidates():
        us = timed(lambda _, c=config: run(c, keys), 1, 8)
        best = min(best, (us, config))
        yield f"contiguous, {tuple(config)}", us
    both = timed(lambda layer: run(best[1], gather(step.views(layer)[0], slots)), step.layers, 8)
    yield f"gathered, {tuple(best[1])}", both


def time_fresh(result: dict[str, Any]) -> None:
    """Whole prompts only: the chosen kernel for pages, this one, torch."""
    for name, (shape, rows) in PREFILL.items():
        if any(count != length for count, length in rows):
            continue
        step = Step(rows, shape)
        longest = max(n for _, n in rows)
        config = prefill_config(step.tokens, longest, step.d, shape[0] // shape[1], 2)
        paged = timed(lambda layer, s=step, c=config: run_prefill(s, layer, c), step.layers, 8)
        times = {f"pages, {tuple(config)}": paged, **dict(fresh_times(step))}
        if len(set(rows)) == 1:
            times |= dict(yardsticks(len(rows), longest, shape, step.d))
        print(f"whole prompts {name}: {step.flops() / 1e9:.1f} GFLOP")
        for which, us in times.items():
            print(f"    {us:9.2f} us  {step.flops() / us / 1e6:6.1f} TFLOP/s  {which}", flush=True)
        result[f"fresh {name}"] = times


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
    time_decode(result, FP8, ("256x640",))
    time_few(result, FP8, ("1x300", "8x4000"))
    time_prefill(result, FP8, ("4x2048",))


def few_tasks() -> list[tuple[str, Any, tuple[int, int], torch.dtype]]:
    shapes = ((LLAMA, BF16), (QWEN, BF16), (LLAMA, FP8))
    configs = [c for c in direct_candidates() if c.per_sm == c.least == 1]  # the rest is not compiled in
    return [("few", c, shape, cache) for c in configs for shape, cache in shapes]


def compile_all(result: dict[str, Any]) -> None:
    """Everything that is timed later, in several processes."""
    decode = list(decode_candidates())
    decode += [config._replace(fused=False) for config in decode]
    tasks = [("decode", c, shape, BF16) for c in decode for shape in (LLAMA, QWEN)]
    tasks += [("decode", c, LLAMA, FP8) for c in decode]
    tasks += few_tasks()
    tasks += [("prefill", c, shape, BF16) for c in prefill_candidates() for shape in (LLAMA, QWEN)]
    tasks += [("prefill", c, LLAMA, FP8) for c in prefill_candidates()]
    tasks += [("prefix", c, LLAMA, BF16) for c in prefix_candidates()]
    compile_tasks(tasks)


def compile_few(result: dict[str, Any]) -> None:
    """What `few` and decoding from an fp8 cache need."""
    compile_tasks([*few_tasks(), *(("decode", c, LLAMA, FP8) for c in decode_candidates())])


def compile_tasks(tasks: list[tuple[str, Any, tuple[int, int], torch.dtype]]) -> None:
    seen: dict[Any, Any] = {}
    for kind, config, shape, cache in tasks:  # what is not compiled in comes once
        plain = config._replace(per_sm=1) if kind == "decode" else config
        seen[kind, plain, shape, cache] = None
    with workers() as pool:
        for problem in pool.map(warm, seen):
            if problem:
                print(f"    {problem}", flush=True)


EVERYTHING = "check,check-fresh,compile,work,decode,few,fresh,prefill,prefix,fp8"
PARTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "check": check,
    "check-fresh": check_fresh,
    "fresh": time_fresh,
    "compile": compile_all,
    "compile-few": compile_few,
    "work": time_work,
    "decode": time_decode,
    "few": time_few,
    "prefill": time_prefill,
    "prefix": time_prefix,
    "fp8": time_fp8,
    "fp8-decode": lambda result: time_decode(result, FP8, ("256x640",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=EVERYTHING)
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
