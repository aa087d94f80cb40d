"""What this CPU allows at most, and how far recorded results are from it: a table for the documentation.

    python -m bench.floor probe --threads 2 --out bench/results/NAME.json
    python -m bench.floor table bench/results/NAME.json RESULT.json ... [--into docs/speed.md]

`probe` compiles bench/probe.c with the system's compiler and runs it: bytes read a second for as many
bytes as the default model has in each format, and the peaks of the instructions that kernels are made
of. The floor of a step is the larger of its weights' bytes over that rate and its operations over the peak
of its arithmetic (int8 for blocks, bf16 for the rest). Attention, norms and sampling count nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from bench.record import provenance, write

_DEFAULT = "BF16"  # what a model without blocks is stored in
_PREFILL = 512  # tokens
_BLOCKS = {"Q4_1": 20 / 32, "Q4_0": 18 / 32, "Q8_0": 34 / 32, "BF16": 2.0}  # bytes of a weight
_BEGIN, _END = "<!-- table -->", "<!-- /table -->"  # of the place in a page
# The default model's matrices: of all layers, and the output head
_LAYERS, _HEAD = 30 * (576 * (576 + 2 * 192) + 576 * 576 + 3 * 576 * 1536), 49_152 * 576


def weight_bytes(name: str) -> int:
    """Its files with 4 bits have an output head of 8."""
    head = "Q8_0" if name.startswith("Q4") else name
    return int(_LAYERS * _BLOCKS[name] + _HEAD * _BLOCKS[head])


class Floor:
    """Seconds that the hardware takes at least."""

    def __init__(self, probed: dict[str, Any]) -> None:
        self._read, self._peak, self._bytes = probed["read"], probed["peak"], probed["bytes"]

    def step(self, weights: str, rows: int) -> float:
        """One token more for each of `rows` streams."""
        read = self._bytes[weights] / self._read[weights]
        return float(max(read, self._operations(weights, rows, rows)))

    def prompt(self, weights: str, tokens: int, ends: int = 1) -> float:
        """`tokens` of prompts, `ends` of them followed by a first token."""
        return self._operations(weights, tokens, ends)

    def batch(self, weights: str, requests: int, tokens: int, output: int) -> float:
        """Whole requests side by side; the first token comes of the prompt."""
        whole = self.prompt(weights, requests * tokens, requests)
        return whole + (output - 1) * self.step(weights, requests)

    def _operations(self, weights: str, rows: int, logits: int) -> float:
        done = 2 * (rows * _LAYERS + logits * _HEAD)
        return float(done / self._peak["bf16" if weights == _DEFAULT else "int8"])


def probe(threads: int, compiler: str) -> dict[str, Any]:
    sizes = {name: weight_bytes(name) for name in _BLOCKS}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "probe"
        source = Path(__file__).with_name("probe.c")
        words = [compiler, "-O2", "-march=native", "-o", str(program), str(source), "-lpthread"]
        subprocess.run(words, check=True)
        mib = {name: str(round(size / 2**20)) for name, size in sizes.items()}
        done = subprocess.run(
            [str(program), str(threads), *mib.values()], check=True, capture_output=True, text=True
        )
    found = {line.split()[0]: float(line.split()[2]) for line in done.stdout.splitlines()}
    peaks = {name: rate for name, rate in found.items() if not name.startswith("read_")}
    if not {"int8", "bf16"} <= peaks.keys():
        raise SystemExit(f"no peaks but {sorted(peaks)}: this probe knows AVX-512 with VNNI and BF16")
    read = {name: found[f"read_{one}_MiB"] for name, one in mib.items()}
    return {"threads": threads, "bytes": sizes, "read": read, "peak": peaks}


class Line(NamedTuple):
    what: str
    octavo: float  # tokens a second
    peer: str
    floor: float


def lines(result: dict[str, Any], floor: Floor) -> list[Line]:
    known = {"against_llama": _alone, "http_peers": _http, "offline_peers": _offline}
    if result["benchmark"] not in known:
        raise SystemExit(f"no lines for {result['benchmark']!r}: one of {', '.join(known)}, floor is wanted")
    return known[result["benchmark"]](result, floor)


def _alone(result: dict[str, Any], floor: Floor) -> list[Line]:
    made = []
    for row in result["rows"]:
        weights = row["weights"]
        limits = {
            "decode": 1 / floor.step(weights, 1),
            "prefill": _PREFILL / floor.prompt(weights, _PREFILL),
        }
        for what, limit in limits.items():
            one = row[what]
            peer = f"llama.cpp {one['llama.cpp']['median']:,.0f} ({_times(one)})"
            name = "one stream" if what == "decode" else f"prompt of {_PREFILL}"
            made.append(Line(f"{weights}, {name}", one["octavo"]["median"], peer, limit))
    return made


def _http(result: dict[str, Any], floor: Floor) -> list[Line]:
    made = []
    for row in result["rows"]:
        n, waves = row["clients"], row["requests"] / row["clients"]
        seconds = waves * floor.batch(row["weights"], n, row["input"], row["output"])
        seconds += floor.prompt(row["weights"], row["once"], 0)
        limit = row["requests"] * row["output"] / seconds
        peers = ", ".join(
            f"{name} {row['servers'][name]['output_tokens_per_s']['median']:,.0f} ({_times(one)})"
            for name, one in row["against"].items()
        )
        ours = row["servers"]["octavo"]["output_tokens_per_s"]["median"]
        made.append(Line(f"{row['weights']}, {n} clients over HTTP, {row['load']}", ours, peers, limit))
    return made


def _offline(result: dict[str, Any], floor: Floor) -> list[Line]:
    made = []
    for row in result["rows"]:
        n, output, rates = row["batch"], row["output"], row["output_tokens_per_s"]
        limit = n * output / floor.batch(_DEFAULT, n, row["input"], output)
        peers = ", ".join(
            f"{name} {rates[name]['median']:,.0f} ({_times(one)})" for name, one in row["against"].items()
        )
        made.append(Line(f"{_DEFAULT}, batch {n} offline", rates["octavo"]["median"], peers, limit))
    return made


def _times(one: dict[str, Any]) -> str:
    found = one["times"]
    return f"{found['median']:.2f} times, {found['min']:.2f}-{found['max']:.2f}; aim {one['target']}"


def table(probed: dict[str, Any], results: list[dict[str, Any]]) -> str:
    floor = Floor(probed)
    rows = [line for result in results for line in lines(result, floor)]
    read = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in probed["read"].items())
    peak = ", ".join(f"{name} {rate / 1e9:,.0f}" for name, rate in probed["peak"].items())
    head = [
        f"{probed['device']}, {probed['threads']} threads. GB/s read: {read}. 10^9 operations/s: {peak}.",
        "",
        "| weights, load | Octavo, tok/s | others, tok/s (Octavo's multiple) | floor, tok/s | reached |",
        "|---|---|---|---|---|",
    ]
    body = [
        f"| {one.what} | {one.octavo:,.0f} | {one.peer} | {one.floor:,.0f} | {one.octavo / one.floor:.0%} |"
        for one in rows
    ]
    return "\n".join(head + body)


def show(results: list[dict[str, Any]], page: Path | None) -> None:
    probed = [one for one in results if one["benchmark"] == "floor"]
    if len(probed) != 1:
        raise SystemExit(f"one result of `probe` is wanted, {len(probed)} came")
    text = table(probed[0], [one for one in results if one not in probed])
    if page is None:
        print(text)
        return
    before, rest = page.read_text().split(_BEGIN)
    page.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{rest.split(_END)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ways = parser.add_subparsers(dest="way", required=True)
    asked = ways.add_parser("probe")
    asked.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    asked.add_argument("--compiler", default=os.environ.get("CC", "cc"))
    asked.add_argument("--out", type=Path)
    shown = ways.add_parser("table")
    shown.add_argument("results", type=Path, nargs="+", help="one of them from `probe`")
    shown.add_argument("--into", type=Path, help="a page that has a place for it (default: print it)")
    args = parser.parse_args()
    if args.way == "table":
        show([json.loads(path.read_text()) for path in args.results], args.into)
        return
    result = {"benchmark": "floor", **provenance(), **probe(args.threads, args.compiler)}
    print(json.dumps({name: result[name] for name in ("threads", "bytes", "read", "peak")}, indent=1))
    if args.out:
        write(args.out, result)


if __name__ == "__main__":
    main()
