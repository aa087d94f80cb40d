"""The scope layers are built in: path, checkpoint index, dtype, device, plug-ins, sinks.

A parameter says here which checkpoint tensor fills which of its slices; loading is then a
loop over names (checkpoint/load.py) and models never mention files. Knows no model and no
file format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from octavo.core.facts import TensorInfo
from octavo.nn.protocols import AttentionBackend, CacheSpec, Quantization, Weights

T = TypeVar("T")


class Sink(NamedTuple):
    """Where a checkpoint tensor goes: `target` is a view of a parameter, of the tensor's shape.

    With `take` the target only states shape and dtype (a meta tensor): the tensor is read into
    memory of its own and handed over, so that no more than a few are held at a time.
    """

    name: str
    target: Tensor
    take: Callable[[Tensor], None] | None = None


@dataclass
class Ledger:
    """What a model registered while it was built; one per model, shared by all its scopes."""

    sinks: dict[str, Sink] = field(default_factory=dict)
    ignored: set[str] = field(default_factory=set)
    finishers: list[Weights] = field(default_factory=list)
    specs: list[CacheSpec] = field(default_factory=list)
    shared: dict[Any, Any] = field(default_factory=dict)
    tensors: list[Tensor] = field(default_factory=list)  # every allocation made here

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters and constants of the model."""
        return sum(t.numel() * t.element_size() for t in self.tensors)

    @property
    def parameters(self) -> int:
        return sum(sink.target.numel() for sink in self.sinks.values())


@dataclass(frozen=True)
class Build:
    """A scope: `b / "q_proj"` goes deeper. Cheap to copy; everything it collects is in `ledger`."""

    index: Mapping[str, TensorInfo]
    dtype: torch.dtype
    device: torch.device
    backend: AttentionBackend
    quant: Quantization
    ledger: Ledger
    path: str = ""

    @classmethod
    def root(
        cls,
        index: Mapping[str, TensorInfo],
        *,
        dtype: torch.dtype,
        backend: AttentionBackend,
        quant: Quantization,
        device: str | torch.device = "cpu",
    ) -> Build:
        return cls(index, dtype, torch.device(device), backend, quant, Ledger())

    def __truediv__(self, name: str | int) -> Build:
        return replace(self, path=f"{self.path}.{name}" if self.path else str(name))

    def name(self, leaf: str) -> str:
        """The checkpoint's name of a tensor in this scope."""
        return f"{self.path}.{leaf}" if self.path else leaf

    def has(self, leaf: str) -> bool:
        return self.name(leaf) in self.index

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """An uninitialised parameter on the scope's device."""
        tensor = torch.empty(shape, dtype=dtype or self.dtype, device=self.device)
        self.ledger.tensors.append(tensor)
        return tensor

    def constant(self, value: Tensor) -> Tensor:
        """A small tensor the model computes itself, moved to the scope's device and counted."""
        tensor = value.to(self.device)
        self.ledger.tensors.append(tensor)
        return tensor

    def sink(self, leaf: str, target: Tensor, take: Callable[[Tensor], None] | None = None) -> None:
        """Declares that `target` is filled by this scope's tensor `leaf`, shape for shape; or, with
        `take`, that a tensor of the target's shape and dtype is handed to it."""
        name = self.name(leaf)
        assert name not in self.ledger.sinks, f"two sinks for {name}"
        self.ledger.sinks[name] = Sink(name, target, take)

    def parameter(self, leaf: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """An allocation filled by one tensor."""
        target = self.empty(*shape, dtype=dtype)
        self.sink(leaf, target)
        return target

    def ignore(self, leaf: str) -> None:
        """A tensor that checkpoints may hold and this model does not need."""
        self.ledger.ignored.add(self.name(leaf))

    def share(self, key: Any, make: Callable[[], T]) -> T:
        """One object for all who ask with the same key (rope tables, tied heads)."""
        if key not in self.ledger.shared:
            self.ledger.shared[key] = make()
        return self.ledger.shared[key]  # type: ignore[no-any-return]

    def cache(self, kv_heads: int, head_dim: int, window: int = 0) -> CacheSpec:
        """Registers what this scope's attention layer keeps. Equal windows share a group."""
        kind = "window" if window else "full"
        groups = list(dict.fromkeys((s.kind, s.window) for s in self.ledger.specs))
        mine = (kind, window)
        group = groups.index(mine) if mine in groups else len(groups)
        spec = CacheSpec(self.path, kv_heads, head_dim, kind, window, group)
        self.ledger.specs.append(spec)
        return spec

    def on_finish(self, weights: Weights) -> None:
        self.ledger.finishers.append(weights)

    def finish(self) -> None:
        """Every sink is full: the modules repack, and no one else holds on to what they drop."""
        self.ledger.sinks.clear()
        self.ledger.tensors.clear()
        for weights in self.ledger.finishers:
            weights.finish()

    def sinks(self) -> Iterator[Sink]:
        return iter(self.ledger.sinks.values())
