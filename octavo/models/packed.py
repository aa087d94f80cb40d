"""Which format each matrix of a model is kept in, and reading a checkpoint into packed weights.

Knows formats and shapes; nothing of what a model computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from octavo.core.facts import TensorInfo
from octavo.models.blocks import DecoderSpec
from octavo.nn.protocols import Checkpoint
from octavo.ops.cpu import lib
from octavo.ops.cpu.eight import to_blocks, to_rows
from octavo.ops.cpu.lib import Engine, Library, Memory, PackedWeight
from octavo.ops.cpu.program import Program

BLOCKS = ("Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")
_ALIGN = 64  # bytes; what kernels read of a weight begins at a line
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


class Blocks(Protocol):
    """A checkpoint that can hand out rows as it stores them."""

    def rows(self, name: str) -> Tensor:
        """[rows, row bytes] uint8, in the order a model wants."""


class Storage(NamedTuple):
    """How matrices are kept. `dtype` is for those the checkpoint does not store in blocks."""

    dtype: torch.dtype = torch.bfloat16
    blocks: bool = True  # keep the checkpoint's own blocks; False: everything in dtype
    int8: bool = False  # matrices that are not in blocks are rounded to 8 bits
    eight: str = "Q8_0"  # how: Q8_0, a scale a block of 32; INT8, a scale a row
    head: bool = True  # embedding and output head as well

    def format(self, stored: str, name: str, k: int) -> str:
        if self.blocks and stored in BLOCKS:
            return stored
        if self.int8 and (self.head or name not in (_EMBEDDING, _HEAD)):
            return self.eight if k % lib.BLOCK == 0 else "INT8"
        return "F32" if self.dtype == torch.float32 else "BF16"


class Matrix(NamedTuple):
    """Checkpoint tensors [rows, k] stacked into one product."""

    parts: tuple[tuple[str, int], ...]  # name, rows
    k: int


class Run(NamedTuple):
    """Neighbouring parts of one format: they are packed together and multiplied at once."""

    format: str
    parts: tuple[tuple[str, int], ...]
    k: int

    @property
    def rows(self) -> int:
        return sum(rows for _, rows in self.parts)


def embedding(spec: DecoderSpec) -> Matrix:
    return Matrix(((_EMBEDDING, spec.vocab),), spec.hidden)


def head(spec: DecoderSpec) -> Matrix:
    return Matrix(((_HEAD, spec.vocab),), spec.hidden)


def qkv(path: str, spec: DecoderSpec) -> Matrix:
    sizes = {"q_proj": spec.heads, "k_proj": spec.kv_heads, "v_proj": spec.kv_heads}
    parts = ((f"{path}.self_attn.{name}.weight", n * spec.head_dim) for name, n in sizes.items())
    return Matrix(tuple(parts), spec.hidden)


def out(path: str, spec: DecoderSpec) -> Matrix:
    return Matrix(((f"{path}.self_attn.o_proj.weight", spec.hidden),), spec.heads * spec.head_dim)


def gate_up(path: str, spec: DecoderSpec) -> Matrix:
    return Matrix(
        tuple((f"{path}.mlp.{n}_proj.weight", spec.intermediate) for n in ("gate", "up")), spec.hidden
    )


def down(path: str, spec: DecoderSpec) -> Matrix:
    return Matrix(((f"{path}.mlp.down_proj.weight", spec.hidden),), spec.intermediate)


def runs(matrix: Matrix, index: Mapping[str, TensorInfo], storage: Storage) -> Iterator[Run]:
    """The matrix cut where the format of its parts changes."""
    parts: list[tuple[str, int]] = []
    last = ""
    for name, rows in matrix.parts:
        stored = index[name].dtype if name in index else ""
        format = storage.format(stored, name, matrix.k)
        if parts and format != last:
            yield Run(last, tuple(parts), matrix.k)
            parts = []
        parts.append((name, rows))
        last = format
    yield Run(last, tuple(parts), matrix.k)


def all_runs(spec: DecoderSpec, index: Mapping[str, TensorInfo], storage: Storage) -> Iterator[Run]:
    """Everything that is packed of a model."""
    yield from runs(embedding(spec), index, storage)
    if not spec.tied:
        yield from runs(head(spec), index, storage)
    for i in range(spec.layers):
        for make in (qkv, out, gate_up, down):
            yield from runs(make(f"model.layers.{i}", spec), index, storage)


def weight_bytes(
    library: Library, spec: DecoderSpec, index: Mapping[str, TensorInfo], storage: Storage
) -> int:
    """Bytes the packed model will take, exactly but for a few vectors of norms and biases."""
    return sum(library.packed_bytes(run.format, run.rows, run.k) for run in all_runs(spec, index, storage))


class Places(NamedTuple):
    """Where each run of a model lies in one piece of memory: by the names of its parts."""

    at: dict[tuple[tuple[str, int], ...], int]
    nbytes: int
    words: tuple[str, ...]  # all of this as text, for a key


def places(library: Library, spec: DecoderSpec, index: Mapping[str, TensorInfo], storage: Storage) -> Places:
    at: dict[tuple[tuple[str, int], ...], int] = {}
    words, end = [], 0
    for run in all_runs(spec, index, storage):
        at[run.parts] = end
        words.append(f"{end} {run}")
        end += -(-library.packed_bytes(run.format, run.rows, run.k) // _ALIGN) * _ALIGN
    return Places(at, end, tuple(words))


class Room(NamedTuple):
    """ops.cpu.lib.Room of one weight."""

    data: Tensor

    def take(self, nbytes: int) -> Tensor:
        return self.data[:nbytes]


class Weights(NamedTuple):
    """Memory for all packed weights of a model. `filled`: they are in it already."""

    places: Places
    data: Tensor
    filled: bool = False

    @classmethod
    def empty(cls, places: Places) -> Weights:
        return cls(places, Memory().take(places.nbytes))

    def room(self, run: Run) -> Room:
        return Room(self.data[self.places.at[run.parts] :])


class Loader:
    """Reads tensors of a checkpoint into packed weights and float vectors."""

    def __init__(
        self, checkpoint: Checkpoint, library: Library, engine: Engine, storage: Storage, weights: Weights
    ) -> None:
        self._checkpoint, self._library, self._engine, self._storage = checkpoint, library, engine, storage
        self._weights = weights

    def vector(self, name: str, size: int) -> Tensor:
        out = torch.empty(size)
        self._checkpoint.read(name, out)
        return out

    def biases(self, matrix: Matrix) -> Tensor:
        """Of the matrix's parts, side by side."""
        return torch.cat([self.vector(f"{name[:-6]}bias", rows) for name, rows in matrix.parts])

    def weight(self, matrix: Matrix) -> PackedWeight:
        """A matrix of one part."""
        [run] = runs(matrix, self._checkpoint.index, self._storage)
        return self._pack(run)

    def linear(
        self,
        p: Program,
        matrix: Matrix,
        src: int,
        dst: int,
        *,
        prologue: int = lib.PLAIN,
        norm: Tensor | None = None,
        eps: float = 0.0,
        bias: bool = False,
        add: bool = False,
        name: str,
    ) -> None:
        """One op for each run of parts; later runs write beside the first."""
        at, biases = 0, self.biases(matrix) if bias else None
        for run in runs(matrix, self._checkpoint.index, self._storage):
            p.linear(
                self._pack(run), src, dst, column=at, add=add, name=name,
                prologue=lib.NORMED if norm is not None else prologue, norm=norm, eps=eps,
                bias=None if biases is None else biases[at : at + run.rows].clone(),
            )  # fmt: skip
            at += run.rows

    def _pack(self, run: Run) -> PackedWeight:
        weight = PackedWeight(self._library, run.format, run.rows, run.k, self._weights.room(run))
        if self._weights.filled:
            return weight
        first = 0
        for name, rows in run.parts:
            self._fill(weight, name, rows, first)
            first += rows
        return weight

    def _fill(self, weight: PackedWeight, name: str, rows: int, first: int) -> None:
        stored = self._checkpoint.index[name].dtype if name in self._checkpoint.index else ""
        if weight.format == stored and weight.format in BLOCKS:
            source: Blocks = self._checkpoint  # type: ignore[assignment]
            self._engine.pack(weight, source.rows(name).contiguous(), first)
            return
        plain = torch.empty(
            rows, weight.k, dtype=torch.bfloat16 if weight.format == "BF16" else torch.float32
        )
        self._checkpoint.read(name, plain)
        if weight.format == "INT8":
            codes, scales = to_rows(plain)
            self._engine.pack(weight, codes, first, scales)
        else:
            self._engine.pack(weight, to_blocks(plain) if weight.format == "Q8_0" else plain, first)
