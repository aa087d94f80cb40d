"""The default model in its file's own blocks, and weights that are there already."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo import LLM, SamplingParams
from octavo.core.facts import Decision
from octavo.ops.cpu.lib import Engine
from octavo.ops.cpu.program import Program

GREEDY = SamplingParams(temperature=0, max_tokens=8)
FRANCE = "The capital of France is"
SMALL = dict(max_model_len=256, max_num_seqs=2, kv_cache_memory_bytes="16MiB")


@pytest.fixture
def formats(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of every product that programs are built with."""
    seen: list[str] = []
    linear = Program.linear

    def watched(self, weight, *args, **more):
        seen.append(weight.format)
        return linear(self, weight, *args, **more)

    monkeypatch.setattr(Program, "linear", watched)
    return seen


def answer(llm: LLM) -> str:
    return llm.generate(FRANCE, GREEDY, use_tqdm=False)[0].outputs[0].text


def decided(llm: LLM, field: str) -> Decision:
    return next(made for made in llm.ready.decisions if made.field == field)


def test_the_files_blocks_on_demand(default_model, formats: list[str]) -> None:
    with LLM(default_model.weights[0], quantization="gguf", **SMALL) as llm:
        assert "Paris" in answer(llm)
        assert decided(llm, "weights").value == "Q4_1, Q8_0"
        assert "quantization" in decided(llm, "weights").why
    assert formats.count("Q4_1") == len(formats) - 1 and formats[-1] == "Q8_0", "the head is Q8_0"


def test_widened_by_default_and_mapped_the_second_time(
    default_model, formats: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with LLM(weight_pages="shared", **SMALL) as llm:
        first = answer(llm)
        assert decided(llm, "weights").value == "BF16" and decided(llm, "weight_pages").value == "shared"
    assert set(formats) == {"BF16"}

    def no_packing(*_: object) -> None:
        raise AssertionError("weights were packed again")

    monkeypatch.setattr(Engine, "pack", no_packing)
    with LLM(weight_pages="shared", **SMALL) as llm, LLM(weight_pages="shared", **SMALL) as other:
        assert answer(llm) == answer(other) == first
        file = decided(llm, "weight_pages").why.split()[3]
        maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if file in line]
        assert len(maps) >= 2 and all(line.split()[1] == "r--s" for line in maps)
