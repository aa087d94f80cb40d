"""Programs written for vLLM run unchanged, the one that asked for all this among them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from octavo.compat import ModelMap
from octavo.core.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = Path(__file__).parent / "scripts"


def run(*words, **environment):
    return subprocess.run(
        [sys.executable, "-m", "octavo.compat", *words],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environment},
    )


def test_the_users_own_script(default_model):
    done = run("--model-map", "meta-llama/*=default", str(SCRIPTS / "seed_offline.py"))
    assert done.returncode == 0, done.stderr
    shown, answered = done.stdout.splitlines()[:2]
    assert shown == "输入: 解释什么是人工智能" and answered.startswith("输出: ")


def test_a_script_with_many_imports(default_model):
    script = str(SCRIPTS / "uses_vllm.py")
    done = run(
        script, "--model", "some/model", "--max-model-len", "256", "--kv-cache-memory-bytes", "64MiB",
        OCTAVO_MODEL_MAP="*=default",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout and done.stdout.strip().endswith(f"script: {script}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "program"),
        (("absent.py",), "absent.py does not exist"),
        (("--model-map", "nonsense", "x.py"), "OLD=NEW"),
    ],
)
def test_bad_calls_are_explained(words, said):
    done = run(*words)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_the_first_pattern_that_fits_wins():
    models = ModelMap.parse(["a/b=one", "a/*=two", "c=default", "d="])
    assert [models(name) for name in ("a/b", "a/x", "c", "d", "e", None)] == [
        "one",
        "two",
        None,
        None,
        "e",
        None,
    ]
    with pytest.raises(UserError):
        ModelMap.parse(["=x"])
