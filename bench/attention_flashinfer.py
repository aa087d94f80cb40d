"""Our paged attention kernels beside FlashInfer's, on a GPU with flashinfer-python: checked, then timed.

`python bench/attention_flashinfer.py [--out FILE]` takes about a minute where FlashInfer's kernels lie
compiled, prints a table and writes JSON (to $OUT/attention_flashinfer.json where OUT is set). Times are
microseconds a launch inside a captured graph that walks over layers of a cache larger than L2; `plan` is
what FlashInfer's planning takes the host, once a step. What is measured here goes to FLASHINFER in
octavo/ops/triton/attention_tune.py.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from bench.attention_step import BANDWIDTH, BF16, LLAMA, QWEN, Decoder, Rows, Step, run_prefill, timed
from bench.record import provenance, write
from octavo.ops.triton.attention_gather import gather
from octavo.ops.triton.attention_tune import decode_config, fresh_config, prefill_config

PREFILL: dict[str, Rows] = {
    "4 prompts of 2048": [(2048, 2048)] * 4,
    "2048 after 6144": [(2048, 8192)],
    "2048 after 30720": [(2048, 32768)],
    "16 x 512 after 512": [(512, 1024)] * 16,
}
DECODE: dict[str, Rows] = {"256 x 640": [(1, 640)] * 256, "64 x 8192": [(1, 8192)] * 64}
SHAPES = {"32/8": LLAMA, "16/8": QWEN}
TOLERANCE = 3e-2
LOOKS = 48  # tokens of a row that are checked
WORKSPACE = 256 << 20

Launch = Callable[[int], None]


class Theirs:
    """FlashInfer planned for a step."""

    def __init__(self, step: Step, wrapper: Any, **settings: Any) -> None:
        self.step, self.wrapper, self.settings = step, wrapper, settings
        lengths = torch.tensor([length for _, length in step.rows])
        used = -(-lengths // step.page)
        tables = step.tables.cpu()
        pages = torch.cat([tables[row, : int(many)] for row, many in enumerate(used)])
        self.pages = [ends(used), pages.int(), ((lengths - 1) % step.page + 1).int()]
        self.plan()

    def plan(self) -> None:
        s = self.step
        self.wrapper.plan(
            *self.given(), s.heads, s.kv_heads, s.d, s.page, sm_scale=s.d**-0.5, q_data_type=BF16,
            kv_data_type=BF16, **self.settings,
        )  # fmt: skip

    def given(self) -> list[Tensor]:
        if "causal" not in self.settings:  # decoding
            return self.pages
        return [ends(torch.tensor([count for count, _ in self.step.rows])), *self.pages]

    def launch(self, layer: int) -> None:
        s = self.step
        cache = s.caches[layer]
        out = s.out.view(s.tokens, s.heads, s.d)
        self.wrapper.run(s.q, (cache[:, :, 0], cache[:, :, 1]), out=out)

    def planning(self) -> float:
        """Microseconds of the host."""
        took = []
        for _ in range(12):
            torch.cuda.synchronize()
            began = time.perf_counter()
            self.plan()
            took.append((time.perf_counter() - began) * 1e6)
        return statistics.median(took)


def ends(counts: Tensor) -> Tensor:
    return torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0))).int()


def error_of(step: Step) -> float:
    """The largest error of some tokens of every row on layer 0, in units of the tolerance."""
    keys, values = step.views(0)
    out, worst, begin = step.out.view(step.tokens, step.heads, step.d), 0.0, 0
    for row, (count, length) in enumerate(step.rows):
        pages = step.tables[row, : -(-length // step.page)].long()
        k, v = (t[pages].flatten(0, 1)[:length].float() for t in (keys, values))
        looks = torch.linspace(0, count - 1, min(count, LOOKS), device="cuda").long()
        q = step.q[begin + looks].float() * step.d**-0.5
        q = q.view(len(looks), step.kv_heads, -1, step.d)
        s = torch.einsum("qhgd,khd->hgqk", q, k)
        at = torch.arange(length, device="cuda")
        s.masked_fill_(at > (length - count + looks)[:, None], float("-inf"))
        want = torch.einsum("hgqk,khd->qhgd", s.softmax(-1), v).reshape(len(looks), step.heads, step.d)
        error = (out[begin + looks].float() - want).abs() / (TOLERANCE * (1 + want.abs()))
        worst = max(worst, float(error.nan_to_num(1e9).max()))
        begin += count
    return worst


def prefills(step: Step) -> Iterator[tuple[str, Launch | Theirs]]:
    """Ways of attending to a step's rows of several tokens."""
    longest, context = (max(parts) for parts in zip(*step.rows, strict=True))
    chosen = prefill_config(step.tokens, context, step.d, step.heads // step.kv_heads, 2)
    yield f"ours {tuple(chosen)}", lambda layer: run_prefill(step, layer, chosen)
    config = fresh_config(longest)
    if config is not None and longest == context:
        from octavo.ops.triton.attention_fresh import fresh, usable

        if usable(step.q.device):
            slots = places(step)
            values = gather(step.views(0)[1], slots)  # every layer's are the same

            def whole(layer: int) -> None:
                keys = gather(step.views(layer)[0], slots)
                rows = (step.lengths, step.row_start)
                fresh(step.q, keys, values, step.out, *rows, config, scale=step.d**-0.5)

            yield "ours, whole prompts (keys gathered)", whole
    from flashinfer import BatchPrefillWithPagedKVCacheWrapper as Wrapper

    space = torch.zeros(WORKSPACE, dtype=torch.uint8, device="cuda")
    hopper = torch.cuda.get_device_capability()[0] == 9
    for backend in ("fa3", "fa2") if hopper else ("fa2",):
        yield f"flashinfer {backend}", Theirs(step, Wrapper(space, "HND", backend=backend), causal=True)


def places(step: Step) -> Tensor:
    """[tokens] int64: where keys and values of the step lie."""
    rows = []
    for row, (count, length) in enumerate(step.rows):
        at = torch.arange(length - count, length, device="cuda")
        rows.append(step.tables[row].long()[at // step.page] * step.page + at % step.page)
    return torch.cat(rows)


def decodes(step: Step) -> Iterator[tuple[str, Launch | Theirs]]:
    config = decode_config(len(step.rows), step.d, 2)
    yield f"ours {tuple(config)}", Decoder(step, config).launch
    from flashinfer import BatchDecodeWithPagedKVCacheWrapper as Wrapper

    space = torch.zeros(WORKSPACE, dtype=torch.uint8, device="cuda")
    yield "flashinfer", Theirs(step, Wrapper(space, "HND"))
    yield "flashinfer, tensor cores", Theirs(step, Wrapper(space, "HND", use_tensor_cores=True))


def measure(step: Step, ways: Iterator[tuple[str, Any]], unit: Callable[[float], str]) -> dict[str, Any]:
    """Checks and times each way; one that cannot is only told."""
    found: dict[str, Any] = {}
    while True:
        try:
            name, way = next(ways)
        except StopIteration:
            return found
        except Exception as problem:
            print(f"    cannot be planned: {type(problem).__name__} {str(problem)[-300:]}", flush=True)
            return {**found, "failed": str(problem)[-300:]}
        theirs = isinstance(way, Theirs)
        launch = way.launch if theirs else way
        step.out.fill_(float("nan"))
        try:
            launch(0)
            error = error_of(step)
            us = timed(launch, step.layers, 8)
        except Exception as problem:
            print(f"    cannot: {name}: {type(problem).__name__} {str(problem)[-300:]}", flush=True)
            found[name] = {"failed": str(problem)[-300:]}
            continue
        plan = way.planning() if theirs else 0.0
        wrong = "" if error <= 1 else "  WRONG"
        extra = f"  plan {plan:7.1f} us" if theirs else ""
        print(f"    {us:9.2f} us  {unit(us)}  error {error:5.3f}{extra}  {name}{wrong}", flush=True)
        found[name] = {"us": us, "error": error, "plan_us": plan}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    folder = os.environ.get("OUT")
    out = args.out or (Path(folder) / "attention_flashinfer.json" if folder else None)
    versions = {"gpu": torch.cuda.get_device_name(), "flashinfer": version("flashinfer-python")}
    result: dict[str, Any] = {**provenance(), **versions}
    began = time.perf_counter()
    with torch.inference_mode():
        for label, step, ways in steps():
            print(f"{label}, {step.layers} layers  [{time.perf_counter() - began:.0f} s]", flush=True)
            flops, size = step.flops(), step.bytes
            if flops:
                result[label] = measure(step, ways, lambda us, f=flops: f"{f / us / 1e6:6.1f} TFLOP/s")
            else:
                floor = size / BANDWIDTH * 1e8
                result[label] = measure(step, ways, lambda us, f=floor: f"{f / us:5.1f} % of 3.05 TB/s")
            if out:
                write(out, result)
    print(f"[{time.perf_counter() - began:.1f} s]")


def steps() -> Iterator[tuple[str, Step, Iterator[tuple[str, Any]]]]:
    """One at a time: each has caches of its own."""
    for shape, heads in SHAPES.items():
        for name, rows in PREFILL.items():
            step = Step(rows, heads)
            yield f"prefill {name}, {shape} heads", step, prefills(step)
    for shape, heads in SHAPES.items():
        for name, rows in DECODE.items():
            step = Step(rows, heads)
            yield f"decode {name}, {shape} heads", step, decodes(step)


if __name__ == "__main__":
    main()
