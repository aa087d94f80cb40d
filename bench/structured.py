"""What a JSON schema costs: output tokens a second of streams with one beside those without.

    python -m bench.structured --streams 16 --pairs 7 --out bench/results/NAME.json

The same prompts, lengths and engine; each pair runs both ways, one after the other, in turning order, so
that a drift of the machine's speed meets both. The schema's answers are longer than what is asked
for, so both ways bring exactly `--output` tokens a stream.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
from pathlib import Path
from typing import Any

from bench.record import provenance, spread, write
from octavo import AsyncLLM, SamplingParams, StructuredOutputsParams

_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 8, "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "email": {"type": "string", "pattern": "^[a-z]{3,12}@[a-z]{3,12}[.](com|org)$"},
        "role": {"enum": ["admin", "editor", "reader"]},
        "about": {"type": "string", "minLength": 60, "maxLength": 200},
    },
    "required": ["name", "age", "email", "role", "about"],
    "additionalProperties": False,
}
SCHEMA = {"type": "array", "items": _PERSON, "minItems": 20, "maxItems": 20}
_TOPICS = ("cooks", "sailors", "poets", "farmers", "pilots", "nurses", "bakers", "clerks")


class Bench:
    def __init__(self, llm: AsyncLLM, streams: int, output: int) -> None:
        self._llm = llm
        self._output = output
        self._topics = [_TOPICS[i % len(_TOPICS)] for i in range(streams)]
        self._ids = itertools.count()

    async def run(self, constrained: bool) -> float:
        """Seconds until every stream has ended."""
        form = StructuredOutputsParams(json=SCHEMA) if constrained else None
        params = SamplingParams(
            temperature=0.8, seed=1, max_tokens=self._output, ignore_eos=True, structured_outputs=form
        )
        began = time.perf_counter()
        counts = await asyncio.gather(*(self._one(i, topic, params) for i, topic in enumerate(self._topics)))
        seconds = time.perf_counter() - began
        assert set(counts) == {self._output}, counts
        return seconds

    async def _one(self, at: int, topic: str, params: SamplingParams) -> int:
        prompt = f"A list of {20 + at} {topic} as JSON, each with name, age, email, role and a few words: "
        count = 0
        async for output in self._llm.generate(prompt, params, f"bench-{next(self._ids)}"):
            count = len(output.outputs[0].token_ids)
        return count


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    seconds: dict[bool, list[float]] = {False: [], True: []}
    async with AsyncLLM(dtype=args.dtype, max_model_len=1024, max_num_seqs=max(16, args.streams)) as llm:
        bench = Bench(llm, args.streams, args.output)
        for pair in range(args.pairs + 1):
            for way in (False, True) if pair % 2 else (True, False):
                taken = await bench.run(way)
                if pair:  # the first pair warms up, and compiles the grammar
                    seconds[way].append(taken)
    tokens = args.streams * args.output
    ratios = [free / bound for free, bound in zip(seconds[False], seconds[True], strict=True)]
    return {
        "streams": args.streams,
        "output": args.output,
        "dtype": args.dtype,
        "seconds_without": seconds[False],
        "seconds_with": seconds[True],
        "tokens_per_s_without": tokens / statistics.median(seconds[False]),
        "tokens_per_s_with": tokens / statistics.median(seconds[True]),
        "speed_with_to_without": spread(ratios),
        "ratios": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--output", type=int, default=96)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    row = asyncio.run(measure(args))
    print(
        f"{row['tokens_per_s_without']:.0f} tokens/s without, {row['tokens_per_s_with']:.0f} with a schema; "
        f"paired: {row['speed_with_to_without']['median']:.3f}"
    )
    if args.out:
        write(args.out, {"benchmark": "structured", **provenance(), "rows": [row]})


if __name__ == "__main__":
    main()
