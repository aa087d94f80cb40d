"""Octavo beside Hugging Face `generate`: the same weights, dtype, prompts and cores, turn by turn.

    python -m bench.against_hf --batch 1,8,16 --dtype bfloat16 --repeats 5 --out bench/results/NAME.json

Each row alternates the two engines, so that a drift of the machine's speed meets both. What a row
says against the other engine is therefore made of neighbouring runs: on a machine that others use
too, that ratio holds where the seconds do not.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from bench.record import provenance, spread, write
from octavo import LLM, SamplingParams
from octavo.checkpoint.find import locate
from octavo.config.model import ModelConfig

Run = Callable[[list[list[int]]], None]


def prompts(batch: int, length: int, seed: int) -> list[list[int]]:
    """Random token ids: no two prompts share a prefix."""
    rng = random.Random(seed)
    return [[rng.randrange(100, 49_000) for _ in range(length)] for _ in range(batch)]


def octavo(dtype: str, out: int) -> Run:
    llm = LLM(dtype=dtype, max_model_len=2048)
    params = SamplingParams(temperature=0, max_tokens=out, ignore_eos=True, detokenize=False)

    def run(ids: list[list[int]]) -> None:
        answers = llm.generate([{"prompt_token_ids": row} for row in ids], params, use_tqdm=False)
        assert all(len(answer.outputs[0].token_ids) == out for answer in answers)

    return run


def transformers(dtype: str, out: int) -> Run:
    gguf = Path(locate(ModelConfig()).weights[0])
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=getattr(torch, dtype)
    )
    model.generation_config.eos_token_id = None

    @torch.inference_mode()
    def run(ids: list[list[int]]) -> None:
        answer = model.generate(torch.tensor(ids), max_new_tokens=out, do_sample=False, pad_token_id=0)
        assert answer.shape[1] == len(ids[0]) + out

    return run


def measure(runs: dict[str, Run], batch: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row an engine; the first round warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(args.repeats + 1):
        ids = prompts(batch, args.input, 1000 * batch + repeat)
        for name, run in runs.items():
            began = time.perf_counter()
            run(ids)
            if repeat:
                seconds[name].append(time.perf_counter() - began)
    return [
        _row(name, batch, args, times) | {"faster_than": _against(name, seconds)}
        for name, times in seconds.items()
    ]


def _against(name: str, seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """How many times faster this engine was than each other one, round by round; and the best round
    of each beside the other's best, which a busy machine disturbs least."""
    return {
        other: spread([theirs / ours for theirs, ours in zip(times, seconds[name], strict=True)])
        | {"best": min(times) / min(seconds[name])}
        for other, times in seconds.items()
        if other != name
    }


def _row(name: str, batch: int, args: argparse.Namespace, times: list[float]) -> dict[str, Any]:
    figures = spread(times)
    return {
        "engine": name,
        "batch": batch,
        "input": args.input,
        "output": args.output,
        "dtype": args.dtype,
        "seconds": figures,
        "all_seconds": times,
        "output_tokens_per_s": batch * args.output / figures["median"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", default="1,8,16")
    parser.add_argument("--input", type=int, default=128)
    parser.add_argument("--output", type=int, default=64)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--engines", default="octavo,transformers")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    origin = provenance()  # of the code that runs, whatever changes meanwhile
    makers = {"octavo": octavo, "transformers": transformers}
    runs = {name: makers[name](args.dtype, args.output) for name in args.engines.split(",")}
    rows = []
    for batch in map(int, args.batch.split(",")):
        rows += measure(runs, batch, args)
        for row in rows[-len(runs) :]:
            print(
                f"{row['engine']:>13} batch {batch:>3}: {row['output_tokens_per_s']:8.1f} output tokens/s",
                flush=True,
            )
    if args.out:
        write(args.out, {"benchmark": "against_hf", **origin, "rows": rows})


if __name__ == "__main__":
    main()
