"""Picks the attention backend: the first that supports every layer, with reasons why not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from octavo.attention.cpu import CPUAttention
from octavo.attention.flashinfer import FlashInferAttention
from octavo.attention.torch_ref import TorchRef
from octavo.attention.triton import TritonAttention
from octavo.core.errors import Unsupported
from octavo.core.facts import Decision, Platform
from octavo.nn.protocols import AttentionBackend, CacheSpec


class Choice(Protocol):
    """A backend's class. Asked before one is made: that loads kernels, which need not be installed."""

    def __call__(self) -> AttentionBackend: ...
    def supports(
        self, spec: CacheSpec, platform: Platform, dtypes: tuple[torch.dtype, ...] = ()
    ) -> str | None: ...


BACKENDS: dict[str, Choice] = {
    "triton": TritonAttention,
    "flashinfer": FlashInferAttention,
    "cpu": CPUAttention,
    "torch_ref": TorchRef,
}


def choose_attention(
    specs: Sequence[CacheSpec],
    platform: Platform,
    wanted: str | None = None,
    dtypes: tuple[torch.dtype, ...] = (),
) -> tuple[AttentionBackend, Decision]:
    """The best backend, or the one wanted. Unsupported says why it cannot be."""
    rejected: dict[str, str] = {}
    for name in _in_order(specs, platform) if wanted is None else (wanted,):
        if name not in BACKENDS:
            raise Unsupported(
                f"unknown attention backend {name!r}",
                hint=f"known: {', '.join(BACKENDS)}",
                field="attention_backend",
            )
        choice = BACKENDS[name]
        reasons = [why for spec in specs if (why := choice.supports(spec, platform, dtypes)) is not None]
        if not reasons:
            why = "; ".join(f"{n}: {w}" for n, w in rejected.items())
            asked = "the first choice on this device" if wanted is None else "as asked"
            return choice(), Decision("attention", name, why or asked)
        rejected[name] = reasons[0]
    why = "; ".join(f"{n}: {w}" for n, w in rejected.items())
    raise Unsupported(
        f"no attention backend runs this model here: {why}",
        hint="leave --attention-backend out; `octavo doctor` shows what was found",
        field="attention_backend",
    )


def _in_order(specs: Sequence[CacheSpec], platform: Platform) -> list[str]:
    """The best first. FlashInfer is asked only where it was measured to be that."""
    names = [name for name in BACKENDS if name != "flashinfer"]
    if platform.kind == "cuda" and all(FlashInferAttention.measured(spec, platform) for spec in specs):
        names.insert(0, "flashinfer")
    return names
