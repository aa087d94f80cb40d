"""The profiler's window: a trace that can be opened, and calls in the wrong order."""

from __future__ import annotations

import gc
import gzip
import json
from pathlib import Path

import pytest
import torch

from octavo import LLM, SamplingParams
from octavo.core.errors import UserError
from octavo.core.facts import ModelFiles
from octavo.runner.profile import Profiler


def test_a_trace_is_written_and_can_be_opened(default_model: ModelFiles, tmp_path: Path) -> None:
    with LLM(profiler_dir=str(tmp_path / "traces")) as llm:
        with pytest.raises(UserError, match="no profile is being recorded"):
            llm.stop_profile()
        llm.start_profile()
        with pytest.raises(UserError, match="recorded already"):
            llm.start_profile()
        llm.generate(["Once"], SamplingParams(max_tokens=3, temperature=0), use_tqdm=False)
        path = Path(llm.stop_profile())
    assert path.parent == tmp_path / "traces"
    assert json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def test_a_window_leaves_nothing_for_a_later_sweep(tmp_path: Path) -> None:
    profiler, x = Profiler(), torch.ones(4)
    profiler.start(str(tmp_path))
    for _ in range(2000):
        x = x + 1
    profiler.stop()
    assert gc.collect() < 2000, (
        "two thousand operators are some hundred thousand objects that know each other"
    )
