"""How far answers are from a reference: errors over the largest logit of the position, and what they change."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from octavo.ops.quant import EIGHT, LARGEST, to_eight_bits


class Closeness:
    """Of log-probabilities, over many positions. `bound` is stated: a share of the largest logit."""

    def __init__(self, bound: float) -> None:
        self.bound = bound
        self.worst, self.positions = 0.0, 0
        self.gaps: list[float] = []  # one a position where another token is the reference's first, as shares

    def answer(self, tokens: list[int], logprobs: list[dict[int, Any]], reference: Tensor) -> None:
        """`reference`: logits [n, vocab] of the positions that drew `tokens`."""
        for token, entry, exact in zip(tokens, logprobs, reference, strict=True):
            ours = torch.tensor([entry[i].logprob for i in range(len(exact))])
            self.position(token, ours, exact)

    def position(self, token: int, ours: Tensor, exact: Tensor) -> None:
        largest = exact.abs().max().item()
        error = (ours - exact.log_softmax(-1)).abs().max().item()
        self.worst, self.positions = max(self.worst, error / largest), self.positions + 1
        if token != int(exact.argmax()):
            self.gaps.append(float(exact.max() - exact[token]) / largest)

    def check(self, name: str) -> None:
        """Two logits that are each off by the bound can swap where they lie within twice of it, no further."""
        widest = max(self.gaps, default=0.0)
        print(
            f"{name}: error {self.worst:.4f} of the largest logit (bound {self.bound}); {len(self.gaps)} of "
            f"{self.positions} greedy tokens differ, the widest gap is {widest:.4f}"
        )
        assert 0 < self.worst < self.bound
        assert widest <= 2 * self.bound


def with_rounded_weights(model: Any, dtype: torch.dtype = torch.float32) -> Any:
    """Its projections as quantization="fp8" keeps them where weights are read as `dtype`; all in float32."""
    rounded = copy.deepcopy(model).to(dtype).float()
    for layer in _projections(rounded):
        values, scale = to_eight_bits.reference(layer.weight.data.to(dtype))
        layer.weight.data = values.float() * scale[:, None]
    return rounded


@contextlib.contextmanager
def rounded_activations(model: Any) -> Iterator[None]:
    """Every row that enters a projection is rounded to e4m3 with a scale of its own."""
    hooks = [layer.register_forward_pre_hook(_round_rows) for layer in _projections(model)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def rounded_cache(model: Any) -> Iterator[None]:
    """Keys and values are rounded to e4m3, with a scale of one, before anything looks at them."""
    family = sys.modules[type(model).__module__]
    attend = family.eager_attention_forward

    def rounded(module: Any, q: Tensor, k: Tensor, v: Tensor, *rest: Any, **named: Any) -> Any:
        return attend(module, q, _eight(k), _eight(v), *rest, **named)

    family.eager_attention_forward = rounded
    try:
        yield
    finally:
        family.eager_attention_forward = attend


def _projections(model: Any) -> list[torch.nn.Linear]:
    return [m for m in model.model.layers.modules() if isinstance(m, torch.nn.Linear)]


def _round_rows(layer: torch.nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    x, *rest = given
    scale = (x.abs().amax(-1, keepdim=True).float() / LARGEST).clamp_min(1e-12)
    return (_eight(x.float() / scale) * scale).to(x.dtype), *rest


def _eight(x: Tensor) -> Tensor:
    return x.float().clamp(-LARGEST, LARGEST).to(EIGHT).to(x.dtype)
