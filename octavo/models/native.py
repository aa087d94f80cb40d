"""A decoder run by the native library: packed weights and one recorded program for all layers.

Takes any model whose forward is blocks.Decoder's. Knows no family by name and no file format.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from octavo.models import packed
from octavo.models.blocks import Decoder, DecoderSpec
from octavo.models.packed import Loader, Storage, Weights, places
from octavo.nn.forward import Forward
from octavo.nn.protocols import CacheSpec, Checkpoint
from octavo.ops.cpu import lib
from octavo.ops.cpu.lib import Engine, Library
from octavo.ops.cpu.program import Heads, Program, unsupported

_PROLOGUES = {
    "silu": lib.SILU, "swish": lib.SILU, "gelu": lib.GELU,
    "gelu_new": lib.GELU_TANH, "gelu_pytorch_tanh": lib.GELU_TANH,
}  # fmt: skip


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
        weights: Weights | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.spec, self.cache_specs, self.vocab_size = spec, specs, spec.vocab
        self._page, self._cache = page, cache
        storage = storage or Storage()
        if weights is None:
            weights = Weights.empty(places(library, spec, checkpoint.index, storage))
        self._load = Loader(checkpoint, library, engine, storage, weights)
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
        embedding = load.weight(packed.embedding(spec))
        p.embed(embedding, _X)
        p.angles(_ANGLES, spec.rope.inverse.float().contiguous(), spec.rope.scale)
        for i, cache in enumerate(self.cache_specs):
            self._layer(f"model.layers.{i}", cache)
            progress((i + 1) / (spec.layers + 1))
        p.norm(_X, _HIDDEN, load.vector("model.norm.weight", spec.hidden), spec.eps)
        head = embedding if spec.tied else load.weight(packed.head(spec))
        self._head.linear(head, 0, 1, name="head")
        progress(1.0)

    def _layer(self, path: str, cache: CacheSpec) -> None:
        spec, load, p = self.spec, self._load, self._layers
        d, width = spec.head_dim, spec.hidden
        qkv, out, gate_up, down = (
            make(path, spec) for make in (packed.qkv, packed.out, packed.gate_up, packed.down)
        )
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
