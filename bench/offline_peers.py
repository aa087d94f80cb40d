"""Octavo beside vLLM's CPU build and transformers' `generate`: batches offline, a process each.

    VLLM_PYTHON=FILE python -m bench.offline_peers --batch 1,16 --pairs 5 --out bench/results/NAME.json

The same weights (the default model, written as safetensors in bfloat16), prompts, lengths and cores; turn
by turn, `idle` being the share of a core that an engine took while others had their turn. VLLM_PYTHON is a
Python that has vLLM. `transformers-float32` is transformers with that dtype (on a CPU often the faster).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from pathlib import Path
from typing import Any

from bench import variants
from bench.peers import Engine, alternate, closing, prompts, ratio, verdict
from bench.record import provenance, spread, write

# times the other engine at this batch
TARGETS = {("vllm", 16): 2.0, ("transformers", 16): 5.0, ("transformers", 1): 3.0}
VLLM = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}


def start(name: str, args: argparse.Namespace) -> Engine:
    folder, log = variants.hf_folder(args.cache), args.cache / "logs"
    cores = {"OMP_NUM_THREADS": str(args.threads)}
    if name == "octavo":
        settings = {"dtype": "bfloat16", "max_model_len": 2048, **args.octavo}
        return Engine(name, "octavo", folder, settings, log, **cores)
    if name == "vllm":
        settings = {"dtype": "bfloat16", "max_model_len": 2048, **args.vllm}
        return Engine(
            name, "vllm", folder, settings, log, python=args.vllm_python, **{**VLLM, **args.vllm_env}
        )
    module, _, dtype = name.partition("-")
    return Engine(name, module, folder, {"dtype": dtype or "bfloat16"}, log, HF_HUB_OFFLINE="1", **cores)


def measure(batch: int, engines: list[Engine], args: argparse.Namespace) -> dict[str, Any]:
    """The first round warms up: compilers, caches and the engines' own records of a step."""
    sides = {
        engine.name: lambda round_, engine=engine: engine.run(
            prompts(batch, args.input, 1000 * batch + round_), args.output
        )
        for engine in engines
    }
    found = alternate(sides, {engine.name: engine.process for engine in engines}, args.pairs)
    tokens = batch * args.output
    rates = {name: [tokens / seconds for seconds in turns] for name, turns in found["turns"].items()}
    return {
        "batch": batch, "input": args.input, "output": args.output,
        "idle": found["idle"], "quiet": found["quiet"],
        "output_tokens_per_s": {name: spread(rate) for name, rate in rates.items()},
        "against": {
            name: against(rates["octavo"], rate, TARGETS.get((name.partition("-")[0], batch), 1.0))
            for name, rate in rates.items()
            if name != "octavo"
        },
    }  # fmt: skip


def against(ours: list[float], theirs: list[float], target: float) -> dict[str, Any]:
    times = ratio(ours, theirs)
    return {"times": times, **verdict(times, target)}


def shown(row: dict[str, Any]) -> str:
    rates = ", ".join(
        f"{name} {one['median']:.1f} (idle {row['idle'][name]:.3f})"
        for name, one in row["output_tokens_per_s"].items()
    )
    lines = [f"batch {row['batch']}, output tok/s: {rates}"]
    for name, one in row["against"].items():
        times = one["times"]
        lines.append(
            f"  {times['median']:.2f} [{times['min']:.2f}, {times['max']:.2f}] times {name} "
            f"(target {one['target']}{'' if one['met'] else ', missed'})"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peers", default="vllm,transformers,transformers-float32")
    parser.add_argument("--vllm-python", default=os.environ.get("VLLM_PYTHON"))
    parser.add_argument("--vllm-env", type=json.loads, default={}, help="JSON object")
    parser.add_argument("--vllm", type=json.loads, default={}, help="JSON: more settings of its LLM")
    parser.add_argument("--octavo", type=json.loads, default={}, help="JSON: more settings of ours")
    parser.add_argument("--batch", default="1,16")
    parser.add_argument("--input", type=int, default=128)
    parser.add_argument("--output", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=variants.default_cache())
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    names = args.peers.split(",")
    if "vllm" in names and not args.vllm_python:
        parser.error("vLLM needs VLLM_PYTHON or --vllm-python: a Python that has it")
    origin, rows = provenance(), []
    with contextlib.ExitStack() as stack:
        engines = []
        for name in ("octavo", *names):
            engines.append(start(name, args))
            stack.enter_context(closing(engines[-1].process))
        for batch in map(int, args.batch.split(",")):
            rows.append(measure(batch, engines, args))
            print(shown(rows[-1]), flush=True)
            if args.out:
                about = {engine.name: engine.facts for engine in engines}
                write(args.out, {"benchmark": "offline_peers", **origin, "engines": about, "rows": rows})


if __name__ == "__main__":
    main()
