"""Logits stages that another package brings, and the arguments of a request that are meant for them."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from octavo import LLM, SamplingParams
from octavo.core.errors import UserError
from octavo.core.facts import NO_EFFECT
from octavo.sampling import plugins
from octavo.sampling.sampler import EDITS
from tests.bad.sound import SETTINGS, write_folder

STAGE = '''
import numpy as np

class Only:
    """Leaves the tokens that extra_args names."""

    def __init__(self, slots):
        self.ids = {}

    def admit(self, a):
        only = ((a.sampling and a.sampling.extra_args) or {}).get("only")
        if only is None:
            return False
        self.ids[a.slot] = only
        return True

    def release(self, slot):
        del self.ids[slot]

    def apply(self, logits, rows, at):
        for row in at:
            keep = self.ids[int(rows.slot[row])]
            kept = logits[row, keep].copy()
            logits[row] = -np.inf
            logits[row, keep] = kept
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Installed as pip would leave it."""
    name = f"stage_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(STAGE)
    info = tmp_path / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[octavo.logits_stage]\nonly = {name}:Only\n")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_stage_reads_the_extra_arguments_of_its_rows(package, tmp_path, caplog):
    model = tmp_path / "model"
    model.mkdir()
    write_folder(model)
    asked = [
        SamplingParams(temperature=0, max_tokens=6, ignore_eos=True, extra_args=extra)
        for extra in (None, {"only": [9, 12]}, {"other": 1}, {"only": [5]})
    ]
    with LLM(str(model), **SETTINGS) as llm:
        said = [list(one.outputs[0].token_ids) for one in llm.generate(["hello"] * 4, asked, use_tqdm=False)]
    assert said[0] == said[2]
    assert set(said[1]) <= {9, 12} and said[3] == [5] * 6
    assert "extra_args" not in caplog.text


def test_it_is_said_once_when_nobody_reads_them(tmp_path, caplog):
    write_folder(tmp_path)
    caplog.set_level(logging.WARNING)
    asked = SamplingParams(temperature=0, max_tokens=1, extra_args={"only": [5]})
    with LLM(str(tmp_path), **SETTINGS) as llm:
        llm.generate(["hello"] * 3, asked, use_tqdm=False)
    assert caplog.text.count("extra_args have no effect") == 1


def test_a_stage_that_cannot_be_loaded_is_named(package, tmp_path):
    (tmp_path / f"{package}.py").write_text("import nothing_of_that_name")
    sys.modules.pop(package, None)
    with pytest.raises(UserError, match=f"'only' \\({package}:Only\\).*nothing_of_that_name") as caught:
        plugins.stages()
    assert "uninstall" in caught.value.hint


def test_what_became_of_them_is_told(package):
    assert len(plugins.stages()) == len(EDITS) + 1
    (cpu,), (gpu,) = plugins.decisions("cpu"), plugins.decisions("cuda")
    assert cpu.value == "only" and gpu.value == NO_EFFECT and "only" in gpu.why


def test_without_packages_there_is_nothing_to_tell():
    assert plugins.stages() == EDITS and plugins.decisions("cpu") == ()
