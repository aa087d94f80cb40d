"""Vocabulary embedding and output head, tied or not."""

from __future__ import annotations

from torch import Tensor

from octavo.nn.build import Build
from octavo.ops import basic, matmul


class Embedding:
    """Token ids [n] -> [n, hidden]."""

    def __init__(self, b: Build, vocab: int, hidden: int) -> None:
        self.weight = b.parameter("weight", vocab, hidden)

    def __call__(self, tokens: Tensor) -> Tensor:
        return basic.embedding(tokens, self.weight)


class Head:
    """Hidden states [m, hidden] -> float32 logits [m, vocab]."""

    def __init__(self, b: Build, vocab: int, hidden: int, tied: Embedding | None = None) -> None:
        if tied is None:
            self.weight = b.parameter("weight", vocab, hidden)
        else:
            b.ignore("weight")  # some checkpoints store the tied matrix twice
            self.weight = tied.weight

    def __call__(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        return matmul.head_logits(hidden, self.weight, out)
