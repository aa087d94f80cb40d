"""The same offline workloads on any engine with vLLM's LLM and SamplingParams.

    python -m bench.engine --module octavo --model bench/models/llama-8b --workloads one,eight --out r.json

Weights are random ("dummy") and prompts are random token ids, so that nothing is downloaded; `--model` is a
folder with a config.json. The first repeat of a workload warms up and does not count; a shared prefix is in
the cache from then on. Every workload has prompts of its own; with `--common-prompts` all begin with the
same ones, so that what the cache still holds of an earlier workload is not computed again (after batch64, 64
of batch256's 256). `cached_tokens` tells how many each repeat found. `--engine-args` is a JSON object of
further arguments of LLM.

Octavo is checked first, in a process of its own (check.py): what does not compute the model is not timed.
That fills the cache of kernels; `--unchecked` is for the start without one.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import random
import subprocess
import sys
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bench.record import ROOT, provenance, spread, write

Request = tuple[list[int], int]  # prompt, tokens to generate


class Workload(NamedTuple):
    requests: int
    prompt: tuple[int, int]  # fewest and most tokens
    output: tuple[int, int]
    shared: int = 0  # tokens that all prompts begin with
    temperature: float = 0.0


WORKLOADS = {
    "one": Workload(1, (128, 128), (256, 256)),
    "eight": Workload(8, (128, 128), (256, 256)),
    "batch64": Workload(64, (512, 512), (256, 256)),
    "batch256": Workload(256, (512, 512), (256, 256)),
    "prefill": Workload(64, (2048, 2048), (1, 1)),
    "shared": Workload(128, (64, 64), (64, 64), shared=4096),
    "spread256": Workload(256, (100, 1024), (100, 1024), temperature=0.6),
}


SETTINGS = {
    "load_format": "dummy", "skip_tokenizer_init": True, "max_model_len": 8192,
    "gpu_memory_utilization": 0.9, "dtype": "bfloat16",
}  # fmt: skip


def requests(w: Workload, vocab: int, seed: int, shift: int = 0) -> list[Request]:
    """`shift` makes other tokens of the same lengths."""
    common, own = random.Random(7), random.Random(seed)
    prefix = [common.randrange(10, vocab) for _ in range(w.shared)]
    made = []
    for _ in range(w.requests):
        length, output = own.randint(*w.prompt), own.randint(*w.output)
        ids = [10 + (own.randrange(10, vocab) - 10 + shift) % (vocab - 10) for _ in range(length)]
        made.append((prefix + ids, output))
    return made


class Bench(NamedTuple):
    """A workload on an engine."""

    llm: Any
    params: Callable[..., Any]  # the engine's SamplingParams
    vocab: int
    name: str
    common: bool = False  # its prompts are those of the other workloads

    def requests(self, repeat: int) -> list[Request]:
        shift = 0 if self.common else zlib.crc32(self.name.encode())
        return requests(WORKLOADS[self.name], self.vocab, 100 + repeat, shift)


def run(bench: Bench, repeats: int) -> dict[str, Any]:
    """Seconds of each repeat and what follows from their median."""
    times = []
    for repeat in range(repeats + 1):
        asked = bench.requests(repeat)
        times.append(generate(bench, asked))
    seconds, cached = zip(*times[1:], strict=True)
    counted = spread(list(seconds))
    middle, longest = counted["median"], max(n for _, n in asked)
    wanted = sum(n for _, n in asked)
    return {
        "seconds": counted,
        "each": [round(s, 4) for s in seconds],
        "cached_tokens": list(cached),
        "output_tokens_per_s": round(wanted / middle, 1),
        "prompt_tokens_per_s": round(sum(len(ids) for ids, _ in asked) / middle, 1),
        "ms_per_step": round(1e3 * middle / longest, 4),
    }


def generate(bench: Bench, asked: list[Request]) -> tuple[float, int]:
    """Seconds it takes, and the prompts' tokens that were in the prefix cache."""
    w = WORKLOADS[bench.name]
    sampling = [
        bench.params(temperature=w.temperature, max_tokens=n, ignore_eos=True, detokenize=False)
        for _, n in asked
    ]
    prompts = [{"prompt_token_ids": ids} for ids, _ in asked]
    began = time.perf_counter()
    outputs = bench.llm.generate(prompts, sampling, use_tqdm=False)
    seconds = time.perf_counter() - began
    got, wanted = sum(len(o.outputs[0].token_ids) for o in outputs), sum(n for _, n in asked)
    assert got == wanted, f"{got} tokens came, {wanted} were asked for"
    return seconds, sum(o.num_cached_tokens or 0 for o in outputs)


def profiled(bench: Bench) -> dict[str, Any]:
    """One more run, with the GPU's kernels recorded: which took how long, and how long none ran."""
    bench.llm.start_profile(operators=False)
    generate(bench, bench.requests(-1))
    with gzip.open(bench.llm.stop_profile(), "rt") as file:
        events = json.load(file)["traceEvents"]
    kernels = sorted(
        (e["ts"], e["ts"] + e["dur"], e["name"].split("<")[0].split("(")[0])
        for e in events
        if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
    )
    busy, end, took = 0.0, 0.0, defaultdict[str, list[float]](list)
    for start, stop, name in kernels:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
        took[name].append(stop - start)
    span = end - kernels[0][0]
    most = sorted(took.items(), key=lambda item: -sum(item[1]))[:16]
    return {
        "gpu_span_ms": round(span / 1e3, 2),
        "gpu_idle_share": round(1 - busy / span, 4),
        "kernels": [
            {"name": name[:60], "ms": round(sum(us) / 1e3, 2), "launches": len(us)} for name, us in most
        ],
    }


def checked(model: str, engine_args: dict[str, Any]) -> dict[str, Any]:
    """What check.py found, where it passed."""
    words = ["--model", model, "--engine-args", json.dumps(engine_args)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "check.json"
        done = subprocess.run(
            [sys.executable, "-m", "bench.check", *words, "--out", str(out)],
            cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"not timed, since its check failed:\n{done.stdout}{done.stderr}")
        found = json.loads(out.read_text())
    keys = ("prefill", "decode", "rounding", "bound", "layers", "of_layers", "seconds")
    return {key: found[key] for key in keys if key in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--module", default="octavo")
    parser.add_argument("--model", required=True)
    parser.add_argument("--workloads", default="one,eight,batch64,batch256,prefill,shared")
    parser.add_argument("--engine-args", type=json.loads, default={})
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--common-prompts", action="store_true", help="of all workloads")
    parser.add_argument("--profile", action="store_true", help="one more run of Octavo, its kernels recorded")
    parser.add_argument("--unchecked", action="store_true", help="time it without the check before")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    vocab = json.loads((Path(args.model) / "config.json").read_text())["vocab_size"]
    check = None
    if args.module == "octavo" and not args.unchecked:
        check = checked(args.model, args.engine_args)
        print(json.dumps({"check": check}), flush=True)
    began = time.perf_counter()
    engine = importlib.import_module(args.module)
    llm = engine.LLM(model=args.model, **{**SETTINGS, **args.engine_args})
    rows: list[dict[str, Any]] = [{"workload": "start", "seconds": time.perf_counter() - began}]
    print(json.dumps(rows[0]), flush=True)
    for name in filter(None, args.workloads.split(",")):
        bench = Bench(llm, engine.SamplingParams, vocab, name, args.common_prompts)
        row = run(bench, args.repeats)
        if args.profile and args.module == "octavo":  # its traces hold kernels alone
            row["profile"] = profiled(bench)
        rows.append({"workload": name, **WORKLOADS[name]._asdict(), **row})
        print(json.dumps(rows[-1]), flush=True)
    if args.out:
        about = {"module": args.module, "model": args.model, "engine_args": args.engine_args}
        write(args.out, {**provenance(), **about, "check": check, "rows": rows})


if __name__ == "__main__":
    main()
