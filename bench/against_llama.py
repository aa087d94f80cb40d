"""Octavo beside llama.cpp: the same GGUF file, the same cores, turn by turn; one stream and one prompt.

    LLAMA_BIN=FOLDER python -m bench.against_llama --pairs 5 --out bench/results/NAME.json

Decode is 128 tokens from an empty context (`llama-bench -n 128`); on Octavo's side all of `LLM.generate`
for a prompt of one token. Prefill is the time to the first token of a new prompt of 512 tokens
(`llama-bench -p 512`, which samples nothing). Octavo's process stays between its turns; `idle` is the
share of a core that it took meanwhile. Files but the shipped one are made with llama-quantize, once. A row
is `void` when llama.cpp stays under nine tenths of what it reached on the same type of machine before
(null: another type).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from pathlib import Path
from typing import Any

from bench import variants
from bench.peers import LLAMA_BIN, Engine, alternate, closing, from_environment, prompts, ratio, verdict
from bench.record import provenance, spread, write

DECODE, PREFILL = 128, 512
TARGETS = {  # times llama.cpp: decode, prefill
    "Q4_1": (1.4, 2.0), "Q4_0": (1.4, 2.0), "Q8_0": (1.4, 2.0), "BF16": (1.03, 1.5),
}  # fmt: skip
# llama.cpp on two cores of Zen 4, tokens/s: decode, prefill (the lower end where it varied)
RECORDED = {"Q4_1": (111, 266), "Q4_0": (158, 698), "Q8_0": (115, 550), "BF16": (101, 930)}


class Llama:
    """llama-bench: a process each turn, its samples as it reports them."""

    def __init__(self, folder: Path, threads: int, repeats: int, more: str) -> None:
        self._words = [folder / "llama-bench", "-t", threads, "-r", repeats, "-o", "json", *more.split()]

    def turn(self, path: Path) -> tuple[float, float]:
        """Tokens a second: decode, prefill."""
        words = [*self._words, "-m", path, "-p", PREFILL, "-n", DECODE]
        done = subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True)
        prefill, decode = json.loads(done.stdout)
        assert (prefill["n_prompt"], decode["n_gen"]) == (PREFILL, DECODE)
        return statistics.median(decode["samples_ts"]), statistics.median(prefill["samples_ts"])

    def version(self, path: Path) -> dict[str, Any]:
        words = [*self._words, "-m", path, "-p", 1, "-n", 0]
        done = subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True)
        names = ("build_commit", "build_number", "cpu_info", "type_k", "flash_attn", "poll", "n_threads")
        return {name: json.loads(done.stdout)[0].get(name) for name in names}


def octavo_turn(engine: Engine, round_: int, repeats: int) -> tuple[float, float]:
    """Tokens a second: decode, prefill. No prompt comes twice, so the prefix cache has nothing to give."""
    seeds = [1000 * round_ + i for i in range(repeats)]
    decode = [engine.run(prompts(1, 1, seed), DECODE) for seed in seeds]
    prefill = [engine.run(prompts(1, PREFILL, seed), 1) for seed in seeds]
    return DECODE / statistics.median(decode), PREFILL / statistics.median(prefill)


def measure(name: str, llama: Llama, args: argparse.Namespace) -> dict[str, Any]:
    path = variants.gguf(name, args.llama_bin / "llama-quantize", args.cache)
    # a BF16 file has no blocks to keep
    settings = {"max_model_len": 2048, **args.octavo, **({} if name == "BF16" else {"quantization": "gguf"})}
    cores = {"OMP_NUM_THREADS": str(args.threads)}
    engine = Engine("octavo", "octavo", path, settings, args.cache / "logs", **cores)
    with closing(engine.process):
        sides = {
            "llama.cpp": lambda round_: llama.turn(path),
            "octavo": lambda round_: octavo_turn(engine, round_, args.repeats),
        }
        found = alternate(sides, {"octavo": engine.process}, args.pairs)
    ours, theirs = found["turns"]["octavo"], found["turns"]["llama.cpp"]
    row = {"weights": name, "bytes": path.stat().st_size, "idle": found["idle"], "quiet": found["quiet"]}
    for i, what in enumerate(("decode", "prefill")):
        pair = [one[i] for one in ours], [one[i] for one in theirs]
        row[what] = compared(*pair, TARGETS[name][i], RECORDED[name][i])
    return {**row, "octavo": engine.facts, "file": path.name}


def compared(ours: list[float], theirs: list[float], target: float, recorded: float) -> dict[str, Any]:
    """Tokens a second of each, their ratio, and what that says."""
    times, middle = ratio(ours, theirs), statistics.median(theirs)
    return {
        "octavo": spread(ours), "llama.cpp": spread(theirs), "times": times, **verdict(times, target),
        "void": middle < 0.9 * recorded if same_machine() else None,
    }  # fmt: skip


def same_machine() -> bool:
    """Zen 4, two cores: where the recorded figures are from."""
    text = Path("/proc/cpuinfo").read_text().split("\n\n")
    facts = dict(line.split(":", 1) for line in text[0].replace("\t", "").splitlines() if ":" in line)
    zen4 = facts.get("cpu family", "").strip() == "25" and "avx512_bf16" in facts.get("flags", "")
    return zen4 and len([one for one in text if one.strip()]) == 2


def shown(row: dict[str, Any]) -> str:
    words = []
    for what in ("decode", "prefill"):
        one = row[what]
        mark = " void" if one["void"] else "" if one["met"] else " missed"
        words.append(
            f"{what} {one['octavo']['median']:7.1f} / {one['llama.cpp']['median']:7.1f} tok/s = "
            f"{one['times']['median']:.2f} [{one['times']['min']:.2f}, {one['times']['max']:.2f}]"
            f" (target {one['target']}{mark})"
        )
    return f"{row['weights']}: {'; '.join(words)}; idle {row['idle']['octavo']:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--llama-bin", type=Path, **from_environment("LLAMA_BIN"), help=LLAMA_BIN)
    parser.add_argument("--llama-args", default="-fa 1", help="more words for llama-bench")
    parser.add_argument("--weights", default=",".join(variants.FORMATS))
    parser.add_argument("--octavo", type=json.loads, default={}, help="JSON: more settings of LLM")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="runs in a turn; their median counts")
    parser.add_argument("--cache", type=Path, default=variants.default_cache())
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    origin = provenance()
    llama, rows = Llama(args.llama_bin, args.threads, args.repeats, args.llama_args), []
    about = llama.version(variants.shipped())
    for name in args.weights.split(","):
        rows.append(measure(name, llama, args))
        print(shown(rows[-1]), flush=True)
        if args.out:
            write(args.out, {"benchmark": "against_llama", **origin, "llama.cpp": about, "rows": rows})


if __name__ == "__main__":
    main()
