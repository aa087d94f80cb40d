"""One LLM for all tests here: loading is what takes long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from octavo import LLM
from octavo.core.facts import ModelFiles


@pytest.fixture(scope="package")
def llm(default_model: ModelFiles) -> Iterator[LLM]:
    with LLM(max_model_len=512, max_num_seqs=8, kv_cache_memory_bytes="64MiB") as made:
        yield made
