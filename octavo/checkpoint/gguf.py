"""A GGUF file as a checkpoint with Hugging Face names and layout, dequantised when read."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from octavo.checkpoint.dequant import DEQUANTISERS, PLAIN, dequantise
from octavo.checkpoint.gguf_config import ROPE_FACTORS, config_from_gguf, permutes_heads
from octavo.checkpoint.gguf_header import BLOCK_TYPES, REMEDY, GGUFTensor, read_header
from octavo.checkpoint.names import hf_name
from octavo.core.errors import ArtefactError, Unsupported
from octavo.core.facts import TensorInfo
from octavo.core.hf_config import HFConfig

_BLOCKS = {block.name: block for block in BLOCK_TYPES.values()}


class GGUFCheckpoint:
    anything = False

    def __init__(self, path: str) -> None:
        header = read_header(path)
        self.hf: HFConfig = config_from_gguf(header)
        self._path = path
        self._tensors: dict[str, GGUFTensor] = {}
        for name, tensor in header.tensors.items():
            if name != ROPE_FACTORS:
                self._tensors[hf_name(name)] = tensor
        if len(self._tensors) + (ROPE_FACTORS in header.tensors) != len(header.tensors):
            raise ArtefactError(f"{path}: two tensors stand for the same parameter", hint=REMEDY)
        self.index: Mapping[str, TensorInfo] = {
            n: TensorInfo(t.type, t.shape, t.nbytes) for n, t in self._tensors.items()
        }
        self._heads: dict[str, int] = {}
        if permutes_heads(header):
            self._heads = {
                "q_proj": self.hf.integer("num_attention_heads"),
                "k_proj": self.hf.integer("num_key_value_heads"),
            }
        self._bytes: Tensor | None = _map(path)

    def read(self, name: str, into: Tensor) -> None:
        tensor, raw = self._tensors[name], self.rows(name)
        if tensor.type in PLAIN:
            into.copy_(raw.view(PLAIN[tensor.type]).view(tensor.shape))
        elif tensor.type in DEQUANTISERS:
            block = _BLOCKS[tensor.type]
            dequantise(tensor.type, raw.view(-1, block.nbytes), block.size, into.view(-1))
        else:
            raise Unsupported(
                f"{self._path}: tensor {name} has type {tensor.type}, which is not supported",
                hint=f"fetch the model in another format; known: {', '.join([*PLAIN, *DEQUANTISERS])}",
                field="model",
            )

    def rows(self, name: str) -> Tensor:
        """The stored bytes as uint8 [rows, row bytes], in the order a model wants them."""
        tensor = self._tensors[name]
        rows = tensor.shape[0] if len(tensor.shape) > 1 or name.endswith(".bias") else 1
        raw = self.raw(name).view(rows, -1)
        heads = self._heads.get(name.split(".")[-2])
        return raw if heads is None else _unpermute(raw, heads, name, self._path)

    def raw(self, name: str) -> Tensor:
        """The stored bytes, uint8 [nbytes]; a view of the mapped file."""
        assert self._bytes is not None, "the checkpoint is closed"
        tensor = self._tensors[name]
        return self._bytes[tensor.offset : tensor.offset + tensor.nbytes]

    def close(self) -> None:
        self._bytes = None


def _map(path: str) -> Tensor:
    """The whole file as uint8. Private and never written, so pages stay shared with the cache."""
    with open(path, "rb") as file:
        mapped: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return torch.frombuffer(mapped, dtype=torch.uint8)


def _unpermute(raw: Tensor, heads: int, name: str, path: str) -> Tensor:
    """[rows, bytes] with each head's rows as (half, 2) back to (2, half): what neox rope wants."""
    rows = raw.shape[0]
    if rows % (2 * heads):
        raise ArtefactError(
            f"{path}: {name} has {rows} rows, which do not divide by {heads} heads", hint=REMEDY
        )
    return raw.view(heads, rows // heads // 2, 2, -1).transpose(1, 2).reshape(rows, -1)
