"""A CPU machine has no triton: the default model answers there, though the tests have it installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from octavo.core.facts import ModelFiles

ROOT = Path(__file__).resolve().parents[3]
# loaded by every Python of the test before anything else: no finder finds triton any more
SITE = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] == "triton" else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""
PROGRAM = """
import importlib.util
from octavo import LLM, SamplingParams

if __name__ == "__main__":
    assert importlib.util.find_spec("triton") is None
    with LLM(max_model_len=64, max_num_seqs=1, kv_cache_memory_bytes="16MiB") as llm:
        [answer] = llm.generate("The capital of France is", SamplingParams(temperature=0, max_tokens=4))
    print(answer.outputs[0].text)
"""


def test_the_default_model_answers(default_model: ModelFiles, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE)
    (tmp_path / "program.py").write_text(PROGRAM)
    found = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")], env=found, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
