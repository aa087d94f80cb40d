"""What plug-ins of the layers implement: attention backends, quantisations, adapters, models.

Owns no code, only the contracts and the small values they exchange, so that siblings
(attention, quant, models, runner) meet here and never import each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from octavo.core.facts import Platform, TensorInfo
from octavo.core.hf_config import HFConfig
from octavo.nn.forward import Forward, HostBounds

if TYPE_CHECKING:
    from octavo.nn.build import Build


class CacheSpec(NamedTuple):
    """What one attention layer keeps of every position.

    `name` is the layer's path and the key in `Forward.caches`; `group` indexes
    `Forward.groups`, `Forward.meta` and `CachePlan.groups`. `window` is 0 for kind "full".
    """

    name: str
    kv_heads: int
    head_dim: int
    kind: str = "full"  # "full" | "window"
    window: int = 0  # positions a query sees, itself included
    group: int = 0


class AttnLayer(NamedTuple):
    """What `run` needs to know of a layer. `window` 0: everything before; `softcap` 0: none.

    A cache in 8 bits holds k / k_scale and v / v_scale.
    """

    scale: float
    window: int = 0
    softcap: float = 0.0
    k_scale: float = 1.0
    v_scale: float = 1.0


class Heads(NamedTuple):
    """How a fused projection falls into heads: `heads` of queries, then `kv_heads` of keys and of values.

    `q_norm` and `k_norm` [head_dim] normalise each head (RMS, `eps`) before it turns.
    """

    heads: int
    kv_heads: int
    head_dim: int
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    eps: float = 0.0


class AttentionBackend(Protocol):
    """One way of attending over a paged cache. One instance serves every layer of a model."""

    name: str

    def supports(
        self, spec: CacheSpec, platform: Platform, dtypes: tuple[torch.dtype, ...] = ()
    ) -> str | None:
        """None when it can, otherwise the reason why not. `dtypes` of activations and cache, once known."""

    def captures(self, bounds: HostBounds) -> bool:
        """Whether steps within these bounds may be captured, that is need nothing of the host but them."""

    def layout(self, spec: CacheSpec, pages: int, page_size: int) -> tuple[int, ...]:
        """Shape of a layer's cache; axis 0 is the page."""

    def reserve(self, rows: int, device: torch.device) -> None:
        """Steps will have up to `rows` rows: memory that must not move is taken now."""

    def plan(self, spec: CacheSpec, bounds: HostBounds) -> Any:
        """On the host, without tensors: the group's Meta for this step."""

    def prepare(self, f: Forward, meta: Any) -> None:
        """On the device, once a step: what all layers of the group share (indices, masks)."""

    def enter(
        self, qkv: Tensor, angles: Tensor, heads: Heads, cache: Tensor, meta: Any, layer: AttnLayer
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """qkv [n, (heads + 2 kv_heads) * head_dim] -> normed and turned q, k, v as `run` takes them.

        A backend that stores k and v on the way returns None for them.
        """

    def run(
        self, q: Tensor, k: Tensor | None, v: Tensor | None, cache: Tensor, meta: Any, layer: AttnLayer
    ) -> Tensor:
        """Stores k and v [n, kv_heads, head_dim] (None: nothing to store), then attends.

        q is [n, heads, head_dim]; returns [n, heads * head_dim].
        """


class Part(NamedTuple):
    """A named share of a fused projection: `rows` outputs, filled from the child scope `name`."""

    name: str
    rows: int


class Weights(Protocol):
    """A projection's storage and arithmetic."""

    def __call__(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        gain: Tensor | None = None,
        eps: float = 0.0,
        act: str | None = None,
        before: str | None = None,
    ) -> Tensor:
        """[n, n_in] -> [n, n_out], as octavo.ops.matmul.project; uses up the residual.

        `before`: x [n, 2 n_in] goes through that gated activation first.
        """

    def gates(self, n: int) -> bool:
        """Whether n rows had better be gated here (`before`) than by the projection that makes them."""

    def finish(self) -> None:
        """Called once when every sink is full: repack here."""


class Quantization(Protocol):
    """A way of storing projections."""

    name: str

    @classmethod
    def detect(cls, hf: HFConfig, index: Mapping[str, TensorInfo]) -> Quantization | None:
        """An instance where the checkpoint is stored this way."""

    def linear(self, b: Build, parts: Sequence[Part], n_in: int, bias: bool) -> Weights:
        """Registers the sinks of all parts and returns the fused projection."""


class Adapters(Protocol):
    """Per-row low-rank additions to a projection."""

    def bind(self, b: Build, parts: Sequence[Part]) -> Any:
        """A callable (x, y, f) that adds to y in place, or None where no adapter touches it."""


class Model(Protocol):
    """What the runner drives."""

    cache_specs: tuple[CacheSpec, ...]
    vocab_size: int

    def forward(self, f: Forward) -> Tensor:
        """Hidden states [n, hidden] after the last norm, or [m, hidden] of the tokens f.last [m]; fills the
        caches of f."""

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """[m, hidden] -> [m, vocab] float32, in `out` where given."""


class Layered(Model, Protocol):
    """A model whose layers are launched one by one."""

    def outlined(self) -> AbstractContextManager[None]:
        """Inside, steps go through as few layers as launch every kernel there is; their results mean
        nothing."""


class Checkpoint(Protocol):
    """An opened checkpoint: names and shapes are known, bytes are read on demand.

    `index` uses Hugging Face names whatever the format. It is empty, and `anything` true,
    where the checkpoint makes up whatever it is asked for.
    """

    hf: HFConfig
    index: Mapping[str, TensorInfo]
    anything: bool

    def read(self, name: str, into: Tensor) -> None:
        """Fills `into` (of the tensor's shape, any float dtype), dequantising and casting."""

    def close(self) -> None: ...


DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "half": torch.float16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "int8": torch.int8,
}
