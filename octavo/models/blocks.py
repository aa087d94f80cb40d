"""The shape most models share: a decoder of pre-normed attention and gated MLP.

A family reads its config.json into a DecoderSpec; an odd one overrides a method in its own
file. The spec gains a field only when three models need it. Knows no family by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor

from octavo.core.errors import ArtefactError
from octavo.core.hf_config import HFConfig
from octavo.nn.activation import GATE_NAMES
from octavo.nn.attention import Attention
from octavo.nn.build import Build
from octavo.nn.embedding import Embedding, Head
from octavo.nn.forward import Forward
from octavo.nn.linear import Linear
from octavo.nn.norm import RMSNorm
from octavo.nn.protocols import CacheSpec, Heads, Part
from octavo.nn.rope import Rope, RopeSpec, read_rope

# far above every model, and low enough that no product of two overflows
_WIDE, _MANY = 1 << 24, 1 << 14


class DecoderSpec(NamedTuple):
    """A decoder in numbers. `windows` holds a layer's sliding window, 0 for none."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    eps: float
    activation: str
    tied: bool
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    windows: tuple[int, ...]
    rope: RopeSpec

    @classmethod
    def read(
        cls,
        hf: HFConfig,
        *,
        qkv_bias: bool | None = None,
        out_bias: bool | None = None,
        qk_norm: bool = False,
        windows: tuple[int, ...] | None = None,
    ) -> DecoderSpec:
        """From a Llama-shaped config.json. None: as `attention_bias` says, no window."""
        hidden, heads = hf.integer("hidden_size", high=_WIDE), hf.integer("num_attention_heads", high=_MANY)
        kv_heads = hf.integer("num_key_value_heads", heads, high=_MANY)
        head_dim = hf.integer("head_dim", None, high=_MANY) or hidden // heads
        if heads % kv_heads:
            raise ArtefactError(
                f"{hf.source}: {heads} heads do not divide by {kv_heads} num_key_value_heads",
                hint="fetch config.json again, or set both with --hf-overrides",
                field="num_key_value_heads",
            )
        layers = hf.integer("num_hidden_layers", high=4096)
        bias = hf.flag("attention_bias", False)
        return cls(
            vocab=hf.integer("vocab_size", high=_WIDE),
            hidden=hidden,
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            intermediate=hf.integer("intermediate_size", high=_WIDE),
            eps=hf.number("rms_norm_eps", 1e-6, above=0),
            activation=hf.choice("hidden_act", GATE_NAMES, "silu"),
            tied=hf.flag("tie_word_embeddings", False),
            qkv_bias=bias if qkv_bias is None else qkv_bias,
            out_bias=bias if out_bias is None else out_bias,
            mlp_bias=hf.flag("mlp_bias", False),
            qk_norm=qk_norm,
            windows=windows or (0,) * layers,
            rope=read_rope(hf, head_dim, hf.integer("max_position_embeddings")),
        )


class SelfAttention:
    def __init__(self, b: Build, spec: DecoderSpec, window: int) -> None:
        heads, kv, d = spec.heads, spec.kv_heads, spec.head_dim
        parts = (Part("q_proj", heads * d), Part("k_proj", kv * d), Part("v_proj", kv * d))
        self.qkv = Linear(b, parts, spec.hidden, bias=spec.qkv_bias)
        self.out = Linear(b, (Part("o_proj", spec.hidden),), heads * d, bias=spec.out_bias)
        q_norm, k_norm = (
            ((b / name).parameter("weight", d) for name in ("q_norm", "k_norm"))
            if spec.qk_norm
            else (None, None)
        )
        self.attend = Attention(b, Heads(heads, kv, d, q_norm, k_norm, spec.eps), window=window)

    def __call__(
        self, x: Tensor, norm: RMSNorm, f: Forward, angles: Tensor, last: Tensor | None = None
    ) -> Tensor:
        """The stream x [n, hidden], normed, attends; the outcome is added to x. `angles`: from nn.Rope.
        `last` [m]: the tokens that go on from here, None for all."""
        y = self.attend(self.qkv(x, norm=norm), angles, f)
        if last is not None:
            x, y = x.index_select(0, last), y.index_select(0, last)
        return self.out(y, x)


class GatedMLP:
    def __init__(self, b: Build, spec: DecoderSpec) -> None:
        parts = (Part("gate_proj", spec.intermediate), Part("up_proj", spec.intermediate))
        self.gate_up = Linear(b, parts, spec.hidden, bias=spec.mlp_bias)
        self.down = Linear(b, (Part("down_proj", spec.hidden),), spec.intermediate, bias=spec.mlp_bias)
        self.act = GATE_NAMES[spec.activation]

    def __call__(self, x: Tensor, norm: RMSNorm) -> Tensor:
        """The stream x [n, hidden], normed, goes through; the outcome is added to x."""
        if self.down.gates(len(x)):
            return self.down(self.gate_up(x, norm=norm), x, before=self.act)
        return self.down(self.gate_up(x, norm=norm, act=self.act), x)


class DecoderLayer:
    def __init__(self, b: Build, spec: DecoderSpec, window: int) -> None:
        self.attention = SelfAttention(b / "self_attn", spec, window)
        self.mlp = GatedMLP(b / "mlp", spec)
        self.attention_norm = RMSNorm(b / "input_layernorm", spec.hidden, spec.eps)
        self.mlp_norm = RMSNorm(b / "post_attention_layernorm", spec.hidden, spec.eps)

    def __call__(self, x: Tensor, f: Forward, angles: Tensor, last: Tensor | None = None) -> Tensor:
        """The residual stream [n, hidden] before the layer and after it, [m, hidden] with `last` [m]."""
        x = self.attention(x, self.attention_norm, f, angles, last)
        return self.mlp(x, self.mlp_norm)


class Decoder:
    """Embedding, layers, norm, head. Subclasses say how to read their config.json."""

    def __init__(self, hf: HFConfig, b: Build) -> None:
        spec = self.spec = self.read(hf)
        self.vocab_size = spec.vocab
        m = b / "model"
        self.embed = Embedding(m / "embed_tokens", spec.vocab, spec.hidden)
        self.rope = Rope(m, spec.rope)
        self.layers = [self.layer(m / "layers" / i, spec, spec.windows[i]) for i in range(spec.layers)]
        self.norm = RMSNorm(m / "norm", spec.hidden, spec.eps)
        self.head = Head(b / "lm_head", spec.vocab, spec.hidden, self.embed if spec.tied else None)
        for i in range(spec.layers):  # older files store what every reader computes
            (m / "layers" / i / "self_attn").ignore("rotary_emb.inv_freq")
        m.ignore("rotary_emb.inv_freq")
        self.cache_specs: tuple[CacheSpec, ...] = tuple(b.ledger.specs)

    @staticmethod
    def read(hf: HFConfig) -> DecoderSpec:
        return DecoderSpec.read(hf)

    def layer(self, b: Build, spec: DecoderSpec, window: int) -> DecoderLayer:
        return DecoderLayer(b, spec, window)

    def forward(self, f: Forward) -> Tensor:
        """Hidden states [n, hidden] after the last norm, or [m, hidden] of the tokens f.last [m]."""
        x = self.embed(f.tokens)
        angles = self.rope(f.positions)
        for layer in self.layers[:-1]:
            x = layer(x, f, angles)
        return self.norm(self.layers[-1](x, f, angles, f.last))

    @contextmanager
    def outlined(self) -> Iterator[None]:
        """One layer for each window, and the last, which is told f.last."""
        whole, windows = self.layers, self.spec.windows
        first = {window: layer for window, layer in reversed(list(zip(windows, whole, strict=True)))}
        self.layers = [*first.values(), whole[-1]]
        try:
            yield
        finally:
            self.layers = whole

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """[m, hidden] -> [m, vocab] float32, in `out` where given."""
        return self.head(hidden, out)
