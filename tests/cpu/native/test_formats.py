"""Whole models in every storage format, with every type of cache, at every level.

Close to the torch layers; and a token's logits are the same bits alone or among others, and however
its prompt was cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch
from torch import Tensor

from octavo.attention.native import NativeAttention
from octavo.attention.torch_ref import TorchRef
from octavo.core.facts import TensorInfo
from octavo.core.hf_config import HFConfig
from octavo.models.native import NativeDecoder, Storage
from octavo.ops.cpu import lib
from octavo.ops.cpu.lib import Engine, Library
from tests.cpu.native.test_model import (
    BASE,
    PAGE,
    Big,
    caches_of,
    config,
    native_model,
    run,
    torch_model,
)
from tests.cpu.native.tools import BLOCKS, Made, make, off

LENGTH = 530
PAGES_OF_IT = list(range(32, 32 + -(-LENGTH // PAGE)))
IDS = [(7 * i + i // 50) % BASE["vocab_size"] for i in range(LENGTH)]
STORED = {
    "F32": Storage(torch.float32), "BF16": Storage(torch.bfloat16), "INT8": Storage(int8=True),
    **dict.fromkeys(BLOCKS, Storage(torch.float32)),
}  # fmt: skip
CACHES = list(lib.CACHE_TYPES)
ERRORS = {"F32": 1e-4, "BF16": 0.02}  # of the logits in the 2-norm, with a cache in float32; others 0.05


class Stored(Big):
    """Big weights whose matrices lie in a format's blocks, as a GGUF file has them."""

    def __init__(self, hf: HFConfig, format: str) -> None:
        super().__init__(hf)
        self._format = format
        self.index = _Every(format) if format in BLOCKS else {}

    def rows(self, name: str) -> Tensor:
        return self._made(name).stored

    def read(self, name: str, into: Tensor) -> None:
        if name in self.index:
            into.copy_(self._made(name).plain)
        else:
            super().read(name, into)

    def _made(self, name: str) -> Made:
        return make(self._format, *_sizes(self.hf)[name.split(".")[-2]], seed=crc32(name.encode()))


class _Every(dict[str, TensorInfo]):
    """Any name is a matrix in this format."""

    def __init__(self, format: str) -> None:
        super().__init__()
        self._info = TensorInfo(format, (), 0)

    def __contains__(self, name: object) -> bool:
        return str(name).endswith("weight") and "norm" not in str(name)

    def __getitem__(self, name: str) -> TensorInfo:
        return self._info


def _sizes(hf: HFConfig) -> Mapping[str, tuple[int, int]]:
    hidden, inner, d = (hf.integer(n) for n in ("hidden_size", "intermediate_size", "head_dim"))
    q, kv = hf.integer("num_attention_heads") * d, hf.integer("num_key_value_heads") * d
    return {
        "embed_tokens": (hf.integer("vocab_size"), hidden), "q_proj": (q, hidden), "k_proj": (kv, hidden),
        "v_proj": (kv, hidden), "o_proj": (hidden, q), "gate_proj": (inner, hidden), "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }  # fmt: skip


class Case:
    """A small model in one format, and what it and the torch layers say to IDS taken at once."""

    def __init__(
        self, format: str, cache: torch.dtype, folder: Path, library: Library, engine: Engine
    ) -> None:
        wide = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 8, "head_dim": 32}
        small = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "head_dim": 16}
        shape = wide if format.endswith("_K") else small
        hf = config("llama", folder, num_hidden_layers=2, max_position_embeddings=1024, **shape)
        checkpoint = Stored(hf, format)
        self.reference = torch_model(hf, TorchRef(), checkpoint)
        self.cache, self.backend = cache, NativeAttention(engine, cache, PAGE)
        self.model: NativeDecoder = native_model(
            hf, self.reference.cache_specs, library, engine, STORED[format], cache, checkpoint
        )
        self.whole = self.step(self.fresh(), [(IDS, 0, PAGES_OF_IT)])

    def fresh(self) -> dict[str, Tensor]:
        return caches_of(self.model, self.backend, self.cache)

    def step(self, caches: dict[str, Tensor], rows: list[tuple[list[int], int, list[int]]]) -> Tensor:
        return run(self.model, self.backend, caches, rows)


@pytest.mark.parametrize("format", lib.FORMATS)
def test_logits_stay_close_to_the_torch_layers(
    format: str, tmp_path: Path, library: Library, engine: Engine
) -> None:
    case, plain = Case(format, torch.float32, tmp_path, library, engine), TorchRef()
    want = run(case.reference, plain, caches_of(case.reference, plain), [(IDS, 0, PAGES_OF_IT)])
    assert off(case.whole, want) < ERRORS.get(format, 0.05)


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("format", lib.FORMATS)
def test_bits_depend_neither_on_cut_nor_company(
    format: str, cache: torch.dtype, tmp_path: Path, library: Library, engine: Engine
) -> None:
    case = Case(format, cache, tmp_path, library, engine)
    assert case.whole.isfinite().all() and float(case.whole.std()) > 0
    for cut, end in ((1, 24), (7, 120), (16, 200), (512, LENGTH)):
        caches = case.fresh()
        for at in range(0, end, cut):
            mine = (IDS[at : min(end, at + cut)], at, PAGES_OF_IT)
            others = [([j], 0, [j]) for j in range(at // cut % 3)]
            got = case.step(caches, [*others, mine])[len(others) :]
            assert torch.equal(got, case.whole[at : min(end, at + cut)]), (cut, at)
        if end < LENGTH:  # the next token as one of 32 rows
            _among_32(case, caches, end)


def _among_32(case: Case, caches: dict[str, Tensor], at: int) -> None:
    rows: list[Any] = [([3 * j], 0, [j]) for j in range(32)]
    rows[11] = ([IDS[at]], at, PAGES_OF_IT)
    assert torch.equal(case.step(caches, rows)[11], case.whole[at])
