"""Every family computes what transformers computes, however a prompt is cut and batched."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from octavo.attention.cpu import CPUAttention
from octavo.attention.torch_ref import TorchRef
from octavo.nn.protocols import Model
from tests.cpu.models.driver import Driver, files, load, relative
from tests.cpu.models.tiny import CONFIGS, SHAPE, reference, save

CLOSE = 1e-4


class Case:
    def __init__(self, name: str, folder: Path, theirs: Any) -> None:
        self.name, self.folder, self.theirs = name, folder, theirs
        weights = sorted(str(path) for path in folder.glob("*.safetensors"))
        self.files = files(str(folder), weights, config=str(folder / "config.json"))
        self.backend = CPUAttention()
        self.ours: Model = load(self.files, self.backend)

    def driver(self, **options: Any) -> Driver:
        return Driver(self.ours, self.backend, **options)


@pytest.fixture(scope="module", params=list(CONFIGS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp(request.param)
    yield Case(request.param, folder, save(request.param, folder))


def prompt(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(3, SHAPE["vocab_size"]), k=length)


def test_whole_prompt(case: Case) -> None:
    tokens = prompt(45)
    (logits,) = case.driver().step([("a", tokens)])
    assert logits.dtype == torch.float32
    assert relative(logits, reference(case.theirs, tokens)) < CLOSE


def test_odd_chunks_then_decode(case: Case) -> None:
    tokens = prompt(41, seed=1)
    driver = case.driver()
    pieces, at = [], 0
    for size in (1, 2, 7, 13, 5, 1, 1, 3, 1, 7):
        pieces += driver.step([("a", tokens[at : at + size])])
        at += size
    assert at == len(tokens)
    assert relative(torch.cat(pieces), reference(case.theirs, tokens)) < CLOSE


def test_mixed_rows_in_one_step(case: Case) -> None:
    """Prefills, chunks and decodes of very different lengths share steps."""
    rows = {
        name: prompt(length, seed)
        for seed, (name, length) in enumerate({"a": 60, "b": 5, "c": 23, "d": 34}.items())
    }
    cuts = [
        {"a": 30, "b": 3},
        {"a": 31, "b": 4, "c": 20},
        {"b": 5, "a": 32, "d": 9, "c": 21},
        {"d": 10, "c": 22, "a": 33},
        {"a": 60, "d": 33, "c": 23},
        {"d": 34},
    ]
    driver, got, done = case.driver(), {name: [] for name in rows}, dict.fromkeys(rows, 0)
    for ends in cuts:
        work = [(name, rows[name][done[name] : end]) for name, end in ends.items()]
        for (name, _), logits in zip(work, driver.step(work), strict=True):
            got[name].append(logits)
        done.update(ends)
    for name, tokens in rows.items():
        assert done[name] == len(tokens)
        assert relative(torch.cat(got[name]), reference(case.theirs, tokens)) < CLOSE, name


def test_greedy_tokens(case: Case) -> None:
    """Three rows decode together for 20 tokens and pick what transformers picks."""
    rows = {name: prompt(length, seed=length) for name, length in {"a": 30, "b": 3, "c": 17}.items()}
    driver = case.driver()
    logits = dict(zip(rows, driver.step(list(rows.items())), strict=True))
    said: dict[str, list[int]] = {name: [] for name in rows}
    for _ in range(20):
        for name in rows:
            said[name].append(int(logits[name][-1].argmax()))
        logits = dict(zip(rows, driver.step([(name, said[name][-1:]) for name in rows]), strict=True))
    for name, tokens in rows.items():
        wanted = reference(case.theirs, tokens + said[name]).argmax(-1).tolist()
        assert said[name] == wanted[len(tokens) - 1 : -1]


def test_the_oracle_backend_agrees(case: Case) -> None:
    tokens = prompt(33, seed=5)
    backend = TorchRef()
    driver = Driver(load(case.files, backend), backend, page=8)
    pieces = [
        *driver.step([("a", tokens[:20])]),
        *driver.step([("a", tokens[20:32])]),
        *driver.step([("a", tokens[32:])]),
    ]
    assert relative(torch.cat(pieces), reference(case.theirs, tokens)) < CLOSE


def test_bfloat16_is_close(case: Case) -> None:
    tokens = prompt(33, seed=6)
    backend = CPUAttention()
    model = load(case.files, backend, torch.bfloat16)
    driver = Driver(model, backend, cache_dtype=torch.bfloat16)
    pieces = [
        *driver.step([("a", tokens[:20])]),
        *driver.step([("a", tokens[20:32])]),
        *driver.step([("a", tokens[32:])]),
    ]
    logits = torch.cat(pieces)
    assert logits.dtype == torch.float32
    assert 0 < relative(logits, reference(case.theirs, tokens)) < 0.1


def test_cache_of_another_dtype(case: Case) -> None:
    tokens = prompt(20, seed=7)
    driver = case.driver(cache_dtype=torch.bfloat16)
    logits = torch.cat([*driver.step([("a", tokens[:12])]), *driver.step([("a", tokens[12:])])])
    assert 0 < relative(logits, reference(case.theirs, tokens)) < 0.1


def test_shards_are_the_same_model(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    theirs = save("llama", whole)
    save("llama", parts, shard=True)
    assert len(list(parts.glob("*.safetensors"))) > 2
    tokens = prompt(12)
    (logits,) = Case("llama", parts, theirs).driver().step([("a", tokens)])
    assert relative(logits, reference(theirs, tokens)) < CLOSE
