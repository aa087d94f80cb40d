"""Facts from config.json shapes old and new."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.core.errors import ArtefactError
from octavo.core.facts import ModelFacts, TensorInfo
from octavo.core.hf_config import HFConfig
from octavo.models.facts import model_facts

INDEX = {"a": TensorInfo("BF16", (10, 4), 80), "b": TensorInfo("F32", (4,), 16)}


def facts(index: dict[str, TensorInfo] | None = None, **values: Any) -> ModelFacts:
    usual = dict(architectures=["X"], vocab_size=10, max_position_embeddings=64, num_hidden_layers=2)
    return model_facts(HFConfig({**usual, **values}), INDEX if index is None else index)


def test_plain() -> None:
    found = facts(eos_token_id=[2, 3], bos_token_id=1)
    assert found.num_parameters == 44 and found.num_layers == 2 and found.architecture == "X"
    assert found.eos_token_ids == (2, 3) and found.bos_token_id == 1
    assert found.dtype == "bfloat16" and found.quantization is None and found.sliding_window is None


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_the_named_dtype_wins(key: str) -> None:
    assert facts(**{key: "float16"}).dtype == "float16"
    assert facts(**{key: "auto"}).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("values", "limit"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 256),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}}, 128),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}},
            64,
        ),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, 64),
        ({"rope_parameters": {"rope_type": "default"}}, 64),
        ({}, 64),
    ],
)
def test_longest_context(values: dict[str, Any], limit: int) -> None:
    assert facts(**values).max_position == limit


def test_quantization_is_named() -> None:
    assert facts({"a": TensorInfo("Q4_1", (10, 32), 200)}).quantization == "gguf Q4_1"
    assert facts(quantization_config={"quant_method": "awq"}).quantization == "awq"


def test_windows() -> None:
    assert facts(sliding_window=9).sliding_window == 9
    assert facts(sliding_window=9, use_sliding_window=False).sliding_window is None
    assert facts(sliding_window=None).sliding_window is None


@pytest.mark.parametrize("key", ["eos_token_id", "bos_token_id"])
def test_special_tokens_lie_inside_the_vocabulary(key: str) -> None:
    with pytest.raises(ArtefactError, match=f"'{key}' 10 lies outside the vocabulary of 10"):
        facts(**{key: 10})
