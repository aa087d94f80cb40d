"""Each dequantiser against the gguf package's, on random blocks."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from octavo.checkpoint import dequant
from octavo.checkpoint.gguf_header import BLOCK_TYPES

KINDS = {block.name: (number, block) for number, block in BLOCK_TYPES.items()}


def random_blocks(name: str, count: int) -> np.ndarray:
    """Random bytes, with float16 fields that are finite."""
    number, block = KINDS[name]
    raw = np.random.default_rng(number).integers(0, 256, (count, block.nbytes), dtype=np.uint8)
    halves = {
        "Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2),
    }  # fmt: skip
    for at in halves.get(name, (0,)):
        raw[:, at + 1] &= 0xBB  # an exponent below 31
    return raw


@pytest.mark.parametrize("name", list(dequant.DEQUANTISERS))
def test_equals_the_gguf_package(name: str) -> None:
    number, block = KINDS[name]
    raw = random_blocks(name, 257)
    wanted = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(number)).reshape(257, block.size)
    out = torch.empty(257, block.size)
    dequant.dequantise(name, torch.from_numpy(raw), block.size, out.view(-1))
    assert np.isfinite(wanted).all() and np.abs(wanted).max() > 0
    np.testing.assert_array_equal(out.numpy(), wanted)


def test_chunks_and_other_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor longer than one chunk, into bfloat16, equals the float32 result cast."""
    monkeypatch.setattr(dequant, "_CHUNK", 512)
    raw = torch.from_numpy(random_blocks("Q4_K", 9))
    exact, cast = torch.empty(9 * 256), torch.empty(9 * 256, dtype=torch.bfloat16)
    dequant.dequantise("Q4_K", raw, 256, exact)
    dequant.dequantise("Q4_K", raw, 256, cast)
    assert torch.equal(exact.bfloat16(), cast) and exact.unique().numel() > 100


def test_block_sizes_are_the_formats() -> None:
    for number, (size, nbytes) in gguf.GGML_QUANT_SIZES.items():
        if int(number) in BLOCK_TYPES:
            block = BLOCK_TYPES[int(number)]
            assert (block.name, block.size, block.nbytes) == (number.name, size, nbytes)
