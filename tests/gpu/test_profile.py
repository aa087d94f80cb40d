"""The profiler's window on a GPU: the kernels are in it, graphs or not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from octavo import LLM, SamplingParams
from tests.gpu.models import prompts, save


def kernels(trace: str) -> list[dict[str, Any]]:
    events = json.loads(gzip.decompress(Path(trace).read_bytes()))["traceEvents"]
    return [event for event in events if event.get("cat") == "kernel"]


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("operators", [False, True])
def test_kernels_are_in_the_trace(tmp_path: Path, eager: bool, operators: bool) -> None:
    save("llama", tmp_path / "model")
    settings = {"skip_tokenizer_init": True, "kv_cache_memory_bytes": 64 << 20, "enforce_eager": eager}
    params = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True, detokenize=False)
    with LLM(model=str(tmp_path / "model"), profiler_dir=str(tmp_path), **settings) as llm:
        asked = [{"prompt_token_ids": ids} for ids in prompts(3)]
        llm.generate(asked, params, use_tqdm=False)
        llm.start_profile(operators=operators)
        llm.generate(asked, params, use_tqdm=False)
        found = kernels(llm.stop_profile())
    assert len(found) > 6 * 3, "six steps of three layers are more launches than that"
    assert all(event["dur"] > 0 for event in found)
