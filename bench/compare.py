"""Runs one row of a recorded result again and says whether it agrees.

    python -m bench.compare bench/results/NAME.json --row 0

A row agrees when the new median lies within the recorded minimum and maximum, widened by the share `--slack`
(machines differ from day to day; the ratio between two engines of one run does not).
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
    """The same workload now, both engines if the row's file had both."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "again.json"
        words = [
            "--batch",
            row["batch"],
            "--input",
            row["input"],
            "--output",
            row["output"],
            "--dtype",
            row["dtype"],
        ]
        words += ["--engines", row["engine"], "--repeats", repeats, "--out", out]
        subprocess.run([sys.executable, "-m", "bench.against_hf", *map(str, words)], check=True)
        return dict(json.loads(out.read_text())["rows"][0])


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
    again = rerun(row, args.repeats)
    old, new = row["seconds"], again["seconds"]
    verdict = agrees(old, new["median"], args.slack)
    print(f"recorded {old['median']:.3f} s [{old['min']:.3f}, {old['max']:.3f}], now {new['median']:.3f} s")
    print("agrees" if verdict else "differs")
    return 0 if verdict else 1


if __name__ == "__main__":
    sys.exit(main())
