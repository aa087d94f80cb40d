"""Runs one row of a recorded result again and says whether it agrees.

    python -m bench.compare bench/results/NAME.json --row 0

What is compared is how many times faster than the other engine of its run the row was, where that
was recorded: both engines run again, turn by turn. Otherwise it is the seconds. A row agrees when
the new median lies within the recorded minimum and maximum, widened by the share `--slack`
(machines differ from day to day; the ratio between two engines of one run hardly does).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def rerun(row: dict[str, Any], repeats: int) -> dict[str, Any]:
    """The same workload now, beside the same engines."""
    engines = ",".join([row["engine"], *row.get("faster_than", {})])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "again.json"
        words = ["--engines", engines, "--repeats", repeats, "--out", out]
        for name in ("batch", "input", "output", "dtype"):
            words += [f"--{name}", row[name]]
        subprocess.run([sys.executable, "-m", "bench.against_hf", *map(str, words)], check=True)
        return dict(json.loads(out.read_text())["rows"][0])


def figures(row: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What of a row is compared, by name."""
    ratios = row.get("faster_than", {})
    return {f"times faster than {other}": ratios[other] for other in ratios} or {"seconds": row["seconds"]}


def agrees(old: dict[str, float], new: float, slack: float) -> bool:
    return old["min"] * (1 - slack) <= new <= old["max"] * (1 + slack)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("--row", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--slack", type=float, default=0.05)
    args = parser.parse_args()
    row = json.loads(args.result.read_text())["rows"][args.row]
    again = figures(rerun(row, args.repeats))
    verdict = True
    for name, old in figures(row).items():
        new = again[name]["median"]
        verdict = verdict and agrees(old, new, args.slack)
        print(f"{name}: recorded {old['median']:.3f} [{old['min']:.3f}, {old['max']:.3f}], now {new:.3f}")
    print("agrees" if verdict else "differs")
    return 0 if verdict else 1


if __name__ == "__main__":
    sys.exit(main())
