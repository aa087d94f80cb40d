"""The programs in examples/ run as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples"
SAID = {
    "generate.py": "'The capital of France is' -> ",
    "chat.py": "Paris",
    "sampling.py": "log-probability -",
    "stream.py": "france: ' Paris'",
}


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAID)


@pytest.mark.parametrize("name", SAID)
def test_example(default_model, name):
    command, environment = [sys.executable, str(EXAMPLES / name)], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    assert SAID[name] in done.stdout
