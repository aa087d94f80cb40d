"""Kernels stay on disk: a second start, in another process, compiles none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from octavo.config import env
from tests.gpu.models import save

START = """
import sys
from octavo import LLM, SamplingParams
with LLM(model=sys.argv[1], skip_tokenizer_init=True, kv_cache_memory_bytes=64 << 20) as llm:
    params = SamplingParams(temperature=0.7, max_tokens=4, ignore_eos=True, detokenize=False)
    llm.generate([{"prompt_token_ids": [5] * n} for n in (3, 40)], params, use_tqdm=False)
"""


def test_a_second_start_adds_no_kernel(tmp_path: Path) -> None:
    save("llama", tmp_path / "model")
    cache = tmp_path / "kernels"

    def start() -> set[str]:
        words = [sys.executable, "-c", START, str(tmp_path / "model")]
        given = env.child_environment(TRITON_CACHE_DIR=str(cache))
        done = subprocess.run(words, env=given, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return {str(path.relative_to(cache)) for path in cache.rglob("*.cubin")}

    first = start()
    assert len(first) > 5, "the first start compiles"
    assert start() == first
