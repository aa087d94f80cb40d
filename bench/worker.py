"""One engine in a process of its own, asked for batches over standard input.

    python bench/worker.py --module octavo|vllm|transformers --model PATH [--settings JSON]

Imports nothing of Octavo's source tree, so that whichever Python has the engine can run it. First comes a
line with what the engine is; then each line {"prompts": [[ids], ...], "output": n} is answered by a line
with the seconds it took until all prompts had n more tokens each. Between lines it waits in a read.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

Run = Callable[[list[list[int]], int], list[int]]  # prompts, tokens: how many tokens each got


def vllm_shaped(module: str, model: str, settings: dict[str, Any]) -> tuple[Run, list[str]]:
    """An engine with vLLM's LLM and SamplingParams, and what it decided where it says so."""
    engine = importlib.import_module(module)
    llm = engine.LLM(model=model, **settings)

    def run(prompts: list[list[int]], output: int) -> list[int]:
        params = engine.SamplingParams(temperature=0, max_tokens=output, ignore_eos=True, detokenize=False)
        asked = [{"prompt_token_ids": ids} for ids in prompts]
        answers = llm.generate(asked, params, use_tqdm=False)
        return [len(answer.outputs[0].token_ids) for answer in answers]

    ready = vars(llm).get("ready")
    return run, [str(made) for made in ready.decisions] if ready else []


def transformers(module: str, model: str, settings: dict[str, Any]) -> tuple[Run, list[str]]:
    torch, library = importlib.import_module("torch"), importlib.import_module(module)
    dtype = vars(torch)[settings.pop("dtype", "bfloat16")]
    decoder = library.AutoModelForCausalLM.from_pretrained(model, dtype=dtype, **settings)
    decoder.generation_config.eos_token_id = None

    def run(prompts: list[list[int]], output: int) -> list[int]:
        ids = torch.tensor(prompts)
        greedy = {"max_new_tokens": output, "do_sample": False, "pad_token_id": 0}
        with torch.inference_mode():
            answer = decoder.generate(ids, attention_mask=torch.ones_like(ids), **greedy)
        return [answer.shape[1] - ids.shape[1]] * len(prompts)

    return run, [f"attention: {decoder.config._attn_implementation}", f"threads: {torch.get_num_threads()}"]


def serve(run: Run, words: Any, answer: Any) -> None:
    for line in words:
        asked = json.loads(line)
        began = time.perf_counter()
        got = run(asked["prompts"], asked["output"])
        seconds = time.perf_counter() - began
        if set(got) != {asked["output"]}:
            raise SystemExit(f"{asked['output']} tokens were asked for, {sorted(set(got))} came")
        print(json.dumps({"seconds": seconds}), file=answer, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--module", default="octavo")
    parser.add_argument("--model", required=True)
    parser.add_argument("--settings", type=json.loads, default={})
    args = parser.parse_args()
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what engines print goes to standard error
    make = transformers if args.module == "transformers" else vllm_shaped
    began = time.perf_counter()
    run, decided = make(args.module, args.model, args.settings)
    version = vars(sys.modules[args.module]).get("__version__") or metadata.version(args.module)
    ready = {"ready": time.perf_counter() - began, "version": str(version), "decided": decided}
    print(json.dumps(ready), file=answer, flush=True)
    serve(run, sys.stdin, answer)


if __name__ == "__main__":
    main()
