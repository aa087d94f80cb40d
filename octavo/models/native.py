"""A decoder run by the native library: packed weights and one recorded program for all layers.

Takes any model whose forward is blocks.Decoder's. Weights stay in the blocks the checkpoint
stores them in where the library knows them. Knows no family by name and no file format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from octavo.core.facts import TensorInfo
from octavo.models.blocks import Decoder, DecoderSpec
from octavo.nn.forward import Forward
from octavo.nn.protocols import CacheSpec, Checkpoint
from octavo.ops.cpu import lib
from octavo.ops.cpu.lib import Engine, Library, Memory, PackedWeight
from octavo.ops.cpu.program import Heads, Program, unsupported

_PROLOGUES = {
    "silu": lib.SILU, "swish": lib.SILU, "gelu": lib.GELU,
    "gelu_new": lib.GELU_TANH, "gelu_pytorch_tanh": lib.GELU_TANH,
}  # fmt: skip
_BLOCKS = ("Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")


class Blocks(Protocol):
    """A checkpoint that can hand out rows as it stores them."""

    def rows(self, name: str) -> Tensor:
        """[rows, row bytes] uint8, in the order a model wants."""


class Storage(NamedTuple):
    """How matrices are kept. `dtype` is for those the checkpoint does not store in blocks."""

    dtype: torch.dtype = torch.bfloat16
    blocks: bool = True  # keep the checkpoint's own blocks; False: everything in dtype
    int8: bool = False  # matrices that are not in blocks become int8 with a scale a row

    def format(self, stored: str) -> str:
        if self.blocks and stored in _BLOCKS:
            return stored
        if self.int8:
            return "INT8"
        return "F32" if self.dtype == torch.float32 else "BF16"


class Matrix(NamedTuple):
    """Checkpoint tensors [rows, k] stacked into one product."""

    parts: tuple[tuple[str, int], ...]  # name, rows
    k: int


def refused(kind: type[Decoder], spec: DecoderSpec, cache: torch.dtype, page: int) -> str | None:
    """Why the library cannot run this model, or None."""
    if (
        kind.forward is not Decoder.forward
        or kind.layer is not Decoder.layer
        or kind.logits is not Decoder.logits
    ):
        return f"{kind.__name__} computes in its own way"
    if spec.activation not in _PROLOGUES:
        return f"activation {spec.activation}"
    if cache not in lib.CACHE_TYPES:
        return f"a KV cache in {cache}"
    if page % 16:
        return f"a block size of {page} (multiples of 16 work)"
    return unsupported(spec.heads, spec.kv_heads, spec.head_dim)


def weight_bytes(
    library: Library, spec: DecoderSpec, index: Mapping[str, TensorInfo], storage: Storage
) -> int:
    """Bytes the packed model will take, exactly but for a few vectors of norms and biases."""
    total = 0
    for matrix in _matrices(spec):
        for format, parts in _runs(matrix, index, storage):
            total += library.packed_bytes(format, sum(rows for _, rows in parts), matrix.k)
    return total


class NativeDecoder:
    """nn.protocols.Model over packed weights. Activations and logits are float32."""

    def __init__(
        self,
        spec: DecoderSpec,
        specs: tuple[CacheSpec, ...],
        checkpoint: Checkpoint,
        library: Library,
        engine: Engine,
        *,
        page: int,
        cache: torch.dtype,
        storage: Storage | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.spec, self.cache_specs, self.vocab_size = spec, specs, spec.vocab
        self._page, self._cache = page, cache
        self._load = _Loader(checkpoint, library, engine, storage or Storage())
        widths = (
            spec.hidden, (spec.heads + 2 * spec.kv_heads) * spec.head_dim, spec.heads * spec.head_dim,
            2 * spec.intermediate, spec.hidden, spec.rope.dim,
        )  # fmt: skip
        self._layers = Program(engine, widths)
        self._head = Program(engine, (spec.hidden, spec.vocab))
        self._build(progress or (lambda share: None))

    def forward(self, f: Forward) -> Tensor:
        """Hidden states [n, hidden] after the last norm."""
        n = f.tokens.shape[0]
        hidden = torch.empty(n, self.spec.hidden)
        self._layers.run(n, {_HIDDEN: hidden}, f)
        return hidden

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """[m, hidden] -> [m, vocab] float32, in `out` where given."""
        hidden = hidden.float().contiguous()
        if out is None:
            out = torch.empty(hidden.shape[0], self.vocab_size)
        self._head.run(hidden.shape[0], {0: hidden, 1: out})
        return out

    def profile(self, on: bool = True) -> dict[str, float]:
        """Seconds by kind of op since the last call; `on`: whether to go on measuring."""
        return {**self._layers.profile(on), **self._head.profile(on)}

    def _build(self, progress: Callable[[float], None]) -> None:
        spec, load, p = self.spec, self._load, self._layers
        embedding = load.weight(Matrix((("model.embed_tokens.weight", spec.vocab),), spec.hidden))
        p.embed(embedding, _X)
        p.angles(_ANGLES, spec.rope.inverse.float().contiguous(), spec.rope.scale)
        for i, cache in enumerate(self.cache_specs):
            self._layer(f"model.layers.{i}", cache)
            progress((i + 1) / (spec.layers + 1))
        p.norm(_X, _HIDDEN, load.vector("model.norm.weight", spec.hidden), spec.eps)
        head = embedding if spec.tied else load.weight(Matrix((("lm_head.weight", spec.vocab),), spec.hidden))
        self._head.linear(head, 0, 1, name="head")
        progress(1.0)

    def _layer(self, path: str, cache: CacheSpec) -> None:
        spec, load, p = self.spec, self._load, self._layers
        d, width = spec.head_dim, spec.hidden
        qkv, out, gate_up, down = (make(path, spec) for make in (_qkv, _out, _gate_up, _down))
        norms = None
        if spec.qk_norm:
            norms = (
                load.vector(f"{path}.self_attn.q_norm.weight", d),
                load.vector(f"{path}.self_attn.k_norm.weight", d),
            )
        shape = Heads(
            spec.heads,
            spec.kv_heads,
            d,
            self._page,
            self._cache,
            d**-0.5,
            cache.group,
            cache.window,
            eps=spec.eps,
        )
        norm = load.vector(f"{path}.input_layernorm.weight", width)
        load.linear(p, qkv, _X, _QKV, norm=norm, eps=spec.eps, bias=spec.qkv_bias, name="qkv")
        p.attention(cache.name, _QKV, _ATTENDED, shape, angles=_ANGLES, rope_dim=spec.rope.dim, norms=norms)
        load.linear(p, out, _ATTENDED, _X, bias=spec.out_bias, add=True, name="out")
        norm = load.vector(f"{path}.post_attention_layernorm.weight", width)
        load.linear(p, gate_up, _X, _GATED, norm=norm, eps=spec.eps, bias=spec.mlp_bias, name="gate_up")
        gate = _PROLOGUES[spec.activation]
        load.linear(p, down, _GATED, _X, prologue=gate, bias=spec.mlp_bias, add=True, name="down")


_X, _QKV, _ATTENDED, _GATED, _HIDDEN, _ANGLES = range(6)


def _qkv(path: str, spec: DecoderSpec) -> Matrix:
    sizes = {"q_proj": spec.heads, "k_proj": spec.kv_heads, "v_proj": spec.kv_heads}
    parts = ((f"{path}.self_attn.{name}.weight", n * spec.head_dim) for name, n in sizes.items())
    return Matrix(tuple(parts), spec.hidden)


def _out(path: str, spec: DecoderSpec) -> Matrix:
    return Matrix(((f"{path}.self_attn.o_proj.weight", spec.hidden),), spec.heads * spec.head_dim)


def _gate_up(path: str, spec: DecoderSpec) -> Matrix:
    return Matrix(
        tuple((f"{path}.mlp.{n}_proj.weight", spec.intermediate) for n in ("gate", "up")), spec.hidden
    )


def _down(path: str, spec: DecoderSpec) -> Matrix:
    return Matrix(((f"{path}.mlp.down_proj.weight", spec.hidden),), spec.intermediate)


def _matrices(spec: DecoderSpec) -> Iterator[Matrix]:
    yield Matrix((("model.embed_tokens.weight", spec.vocab),), spec.hidden)
    if not spec.tied:
        yield Matrix((("lm_head.weight", spec.vocab),), spec.hidden)
    for i in range(spec.layers):
        for make in (_qkv, _out, _gate_up, _down):
            yield make(f"model.layers.{i}", spec)


def _runs(
    matrix: Matrix, index: Mapping[str, TensorInfo], storage: Storage
) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """Neighbouring parts of one format: they are packed together and multiplied at once."""
    run: list[tuple[str, int]] = []
    last = ""
    for name, rows in matrix.parts:
        stored = index[name].dtype if name in index else ""
        format = storage.format(stored)
        if run and format != last:
            yield last, run
            run = []
        run.append((name, rows))
        last = format
    yield last, run


class _Loader:
    """Reads tensors of a checkpoint into packed weights and float vectors."""

    def __init__(self, checkpoint: Checkpoint, library: Library, engine: Engine, storage: Storage) -> None:
        self._checkpoint, self._library, self._engine, self._storage = checkpoint, library, engine, storage
        self._memory = Memory()

    def vector(self, name: str, size: int) -> Tensor:
        out = torch.empty(size)
        self._checkpoint.read(name, out)
        return out

    def biases(self, matrix: Matrix) -> Tensor:
        """Of the matrix's parts, side by side."""
        return torch.cat([self.vector(f"{name[:-6]}bias", rows) for name, rows in matrix.parts])

    def weight(self, matrix: Matrix) -> PackedWeight:
        """A matrix of one part."""
        [(format, parts)] = _runs(matrix, self._checkpoint.index, self._storage)
        return self._pack(format, parts, matrix.k)

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
        for format, parts in _runs(matrix, self._checkpoint.index, self._storage):
            rows = sum(n for _, n in parts)
            p.linear(
                self._pack(format, parts, matrix.k), src, dst, column=at, add=add, name=name,
                prologue=lib.NORMED if norm is not None else prologue, norm=norm, eps=eps,
                bias=None if biases is None else biases[at : at + rows].clone(),
            )  # fmt: skip
            at += rows

    def _pack(self, format: str, parts: list[tuple[str, int]], k: int) -> PackedWeight:
        weight = PackedWeight(self._library, format, sum(rows for _, rows in parts), k, self._memory)
        first = 0
        for name, rows in parts:
            self._fill(weight, name, rows, first)
            first += rows
        return weight

    def _fill(self, weight: PackedWeight, name: str, rows: int, first: int) -> None:
        if weight.format in _BLOCKS:
            source: Blocks = self._checkpoint  # type: ignore[assignment]
            self._engine.pack(weight, source.rows(name).contiguous(), first)
            return
        dtype = torch.bfloat16 if weight.format == "BF16" else torch.float32
        plain = torch.empty(rows, weight.k, dtype=dtype)
        self._checkpoint.read(name, plain)
        scales = None
        if weight.format == "INT8":
            scales = plain.abs().amax(1) / 127
            plain = (plain / scales.clamp_min(1e-30)[:, None]).round_().to(torch.int8)
        self._engine.pack(weight, plain, first, scales)
