"""Broken model files load or are refused with a typed error; no process ends, none takes much memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.loading import Fuzz
from tests.hostile.run import run_many

MUTANTS = 200  # `make fuzz` takes 10,000


def test_what_they_come_from_is_sound(tmp_path: Path) -> None:
    Fuzz(tmp_path).sound()


def test_the_same_seed_is_the_same_file(tmp_path: Path) -> None:
    fuzz = Fuzz(tmp_path)
    for seed in range(20):
        first = Path(fuzz.files(seed).weights[0]).read_bytes()
        assert Path(fuzz.files(seed).weights[0]).read_bytes() == first


@pytest.mark.timeout(900)
def test_mutants() -> None:
    total = run_many(MUTANTS, workers=2)
    assert total.total() == MUTANTS
    for format in ("gguf", "safetensors"):
        assert total[f"{format} loaded"] and total[f"{format} ArtefactError"]
