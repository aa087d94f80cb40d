"""The H100 table in one call: every row by every engine, beside its floor and target.

    python -m bench.table --modules octavo,vllm --site vllm=/path/to/site-packages --out r.json

Each engine and model is a process of its own (bench/engine.py), so that none has another's memory; Octavo's
are checked before they are timed. `--site MODULE=PATH` is put before that process's import path. Rows with a
target in milliseconds or seconds are better when smaller, those in tokens a second when larger; `ratio` is
how many times as fast as the last of the modules the first one is. `--rows` takes some of them, by model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from bench.record import ROOT, provenance, write

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "8B": ("bench/models/llama-8b", {}),
    "8B fp8": ("bench/models/llama-8b", {"quantization": "fp8"}),
    "0.6B": ("bench/models/qwen3-0.6b", {}),
}


class Row(NamedTuple):
    model: str
    workload: str  # of bench/engine.py
    unit: str  # what of its result counts
    target: float
    floor: float | None = None  # what memory and tensor cores of an H100 allow


ROWS = [
    Row("8B", "start", "seconds", 8.0),
    Row("8B", "one", "ms_per_step", 5.4, 5.0),
    Row("8B", "eight", "ms_per_step", 5.8, 5.1),
    Row("8B", "batch64", "seconds", 2.7, 2.3),
    Row("8B", "batch256", "seconds", 6.2, 5.6),
    Row("8B", "prefill", "prompt_tokens_per_s", 46000, 53000),
    Row("8B", "shared", "seconds", 1.3),
    Row("8B fp8", "one", "ms_per_step", 3.3, 2.6),
    Row("8B fp8", "batch256", "seconds", 4.9),
    Row("0.6B", "one", "ms_per_step", 0.95, 0.4),
    Row("0.6B", "batch64", "ms_per_step", 3.0),
    Row("0.6B", "spread256", "output_tokens_per_s", 24000, 28000),
]


def larger_is_better(unit: str) -> bool:
    return unit.endswith("_per_s")


def value(row: Row, result: dict[str, Any]) -> float:
    [found] = [r for r in result["rows"] if r["workload"] == row.workload]
    figure = found[row.unit]
    return float(figure["median"] if isinstance(figure, dict) else figure)


def measure(module: str, model: str, args: argparse.Namespace) -> dict[str, Any]:
    """bench/engine.py's result: the workloads of one model's rows."""
    folder, settings = MODELS[model]
    workloads = [row.workload for row in rows_of(args) if row.model == model and row.workload != "start"]
    with tempfile.TemporaryDirectory() as made:
        out = Path(made) / "result.json"
        words = [
            "--module", module, "--model", args.model or folder, "--workloads", ",".join(workloads),
            "--engine-args", json.dumps({**settings, **args.engine_args}), "--repeats", str(args.repeats),
            *(["--profile"] if args.profile else []), *(["--common-prompts"] if args.common_prompts else []),
            "--out", str(out),
        ]  # fmt: skip
        subprocess.run(
            [sys.executable, "-m", "bench.engine", *words],
            cwd=ROOT,
            env=environment(module, args),
            check=True,
        )
        return json.loads(out.read_text())  # type: ignore[no-any-return]


def environment(module: str, args: argparse.Namespace) -> dict[str, str]:
    sites = dict(site.split("=", 1) for site in args.site)
    paths = [sites[module]] if module in sites else []
    paths += [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def judged(row: Row, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Figures of every module, and how they stand to target, floor and each other."""
    figures = {module: value(row, result) for module, result in results.items()}
    first, last = next(iter(figures.values())), list(figures.values())[-1]
    more = larger_is_better(row.unit)
    return {
        **row._asdict(),
        "figures": figures,
        "reached": first >= row.target if more else first <= row.target,
        "of_floor": None if row.floor is None else round(first / row.floor if more else row.floor / first, 3),
        "ratio": round(first / last if more else last / first, 3) if len(figures) > 1 else None,
        "check": next(iter(results.values()))["check"],
    }


def table(rows: list[dict[str, Any]], modules: list[str]) -> str:
    head = ["model", "workload", "unit", *modules, "target", "floor", "ratio", "reached"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        figures = [f"{row['figures'][module]:,.2f}" for module in modules]
        ends = [
            f"{row['target']:g}",
            row["floor"] or "-",
            row["ratio"] or "-",
            "yes" if row["reached"] else "no",
        ]
        lines.append([row["model"], row["workload"], row["unit"], *figures, *map(str, ends)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rows_of(args: argparse.Namespace) -> list[Row]:
    models = args.rows.split(",") if args.rows else list(MODELS)
    if odd := [model for model in models if model not in MODELS]:
        raise SystemExit(f"--rows: no model {', '.join(odd)}; there are {', '.join(MODELS)}")
    chosen = [row for row in ROWS if row.model in models]
    return [r for r in chosen if not args.workloads or r.workload in args.workloads.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--modules", default="octavo,vllm", help="the first is judged, the last compared with"
    )
    parser.add_argument("--site", action="append", default=[], metavar="MODULE=PATH")
    parser.add_argument("--rows", help="models, separated by commas (default: all)")
    parser.add_argument("--workloads", help="of these rows (default: all)")
    parser.add_argument("--model", help="a folder that stands for every model: to try this script out")
    parser.add_argument("--engine-args", type=json.loads, default={}, help="for every engine")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--common-prompts", action="store_true", help="see bench/engine.py")
    parser.add_argument("--profile", action="store_true", help="one more run of Octavo, its kernels recorded")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    modules, rows, runs = args.modules.split(","), rows_of(args), []
    found: list[dict[str, Any]] = []
    for model in dict.fromkeys(row.model for row in rows):
        results = {module: measure(module, model, args) for module in modules}
        runs += list(results.values())
        found += [judged(row, results) for row in rows if row.model == model]
        if args.out:  # what is measured stays, whatever comes next
            write(args.out, {**provenance(), "modules": modules, "rows": found, "runs": runs})
    print(table(found, modules))


if __name__ == "__main__":
    main()
