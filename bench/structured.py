"""What a JSON schema costs: output tokens a second of streams with one beside those without.

    python -m bench.structured --streams 16 --pairs 7 --out bench/results/NAME.json

The same prompts, lengths and weights; each round runs every way, one after the other, in turning order, so
that a drift of the machine's speed meets all. The schema's answers are longer than what is asked
for, so all ways bring exactly `--output` tokens a stream. Ways: `free`, `schema`, and `stepwise`, the
schema on an engine that does not compute certain tokens together. Beside the time on the clock stand the
processor seconds of the engine, which a busy neighbour touches less.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

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


WAYS = ("free", "schema", "stepwise")


class Spent(NamedTuple):
    seconds: float
    cpu: float  # seconds of the engine's processors


class Bench:
    """One engine in a process of its own."""

    def __init__(self, llm: AsyncLLM, engine: psutil.Process, streams: int, output: int) -> None:
        self._llm = llm
        self._engine = engine
        self._output = output
        self._topics = [_TOPICS[i % len(_TOPICS)] for i in range(streams)]
        self._ids = itertools.count()

    async def run(self, constrained: bool) -> Spent:
        """What it takes until every stream has ended."""
        form = StructuredOutputsParams(json=SCHEMA) if constrained else None
        params = SamplingParams(
            temperature=0.8, seed=1, max_tokens=self._output, ignore_eos=True, structured_outputs=form
        )
        began, cpu = time.perf_counter(), self._cpu()
        counts = await asyncio.gather(*(self._one(i, topic, params) for i, topic in enumerate(self._topics)))
        spent = Spent(time.perf_counter() - began, self._cpu() - cpu)
        assert set(counts) == {self._output}, counts
        return spent

    def _cpu(self) -> float:
        times = self._engine.cpu_times()
        return float(times.user + times.system)

    async def _one(self, at: int, topic: str, params: SamplingParams) -> int:
        prompt = f"A list of {20 + at} {topic} as JSON, each with name, age, email, role and a few words: "
        count = 0
        async for output in self._llm.generate(prompt, params, f"bench-{next(self._ids)}"):
            count = len(output.outputs[0].token_ids)
        return count


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    spent: dict[str, list[Spent]] = {way: [] for way in args.ways}
    async with contextlib.AsyncExitStack() as stack:
        common = await _engine(stack, args, jump_ahead=True)
        benches = {way: common for way in args.ways}
        if "stepwise" in args.ways:
            benches["stepwise"] = await _engine(stack, args, jump_ahead=False)
        for round_ in range(args.pairs + 1):
            order = args.ways if round_ % 2 else args.ways[::-1]
            for way in order:
                taken = await benches[way].run(way != "free")
                if round_:  # the first round warms up, and compiles the grammar
                    spent[way].append(taken)
    return _row(args, spent)


async def _engine(stack: contextlib.AsyncExitStack, args: argparse.Namespace, jump_ahead: bool) -> Bench:
    before = set(psutil.Process().children())
    llm = AsyncLLM(
        dtype=args.dtype, max_model_len=1024, max_num_seqs=args.max_num_seqs, jump_ahead=jump_ahead
    )
    await stack.enter_async_context(llm)
    (engine,) = set(psutil.Process().children()) - before
    return Bench(llm, engine, args.streams, args.output)


def _row(args: argparse.Namespace, spent: dict[str, list[Spent]]) -> dict[str, Any]:
    tokens = args.streams * args.output
    row: dict[str, Any] = {
        name: getattr(args, name) for name in ("streams", "output", "dtype", "max_num_seqs")
    }
    for way, taken in spent.items():
        seconds, cpu = [one.seconds for one in taken], [one.cpu for one in taken]
        row[way] = {
            "tokens_per_s": tokens / statistics.median(seconds),
            "tokens_per_cpu_s": tokens / statistics.median(cpu),
            "seconds": seconds,
            "cpu_seconds": cpu,
        }
        if way != args.ways[0]:
            row[way]["speed"] = _paired([one.seconds for one in spent[args.ways[0]]], seconds)
            row[way]["speed_by_cpu"] = _paired([one.cpu for one in spent[args.ways[0]]], cpu)
    return row


def _paired(first: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """How fast the other is, as a share of the first: round by round."""
    return spread([a / b for a, b in zip(first, other, strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--output", type=int, default=96)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--max-num-seqs", type=int, default=32)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["free", "schema"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    row = asyncio.run(measure(args))
    for way in args.ways:
        found = row[way]
        print(
            f"{way:>9}: {found['tokens_per_s']:6.0f} tokens/s, {found['tokens_per_cpu_s']:6.0f} a CPU second",
            end="",
        )
        share = (
            ""
            if way == args.ways[0]
            else f"; paired {found['speed']['median']:.3f}, {found['speed_by_cpu']['median']:.3f}"
        )
        print(share)
    if args.out:
        write(args.out, {"benchmark": "structured", **provenance(), "rows": [row]})


if __name__ == "__main__":
    main()
