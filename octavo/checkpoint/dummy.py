"""Random weights for whatever is asked: to try a model's speed with nothing but its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

import torch
from torch import Tensor

from octavo.core.facts import TensorInfo
from octavo.core.hf_config import HFConfig

_BOUND = 1e-3  # small enough that no activation overflows, never all zero


class DummyCheckpoint:
    anything = True

    def __init__(self, hf: HFConfig, seed: int = 0) -> None:
        self.hf = hf
        self.index: Mapping[str, TensorInfo] = {}
        self._seed = seed

    def read(self, name: str, into: Tensor) -> None:
        # keyed by name, so that neither order nor threads of the loader change a weight
        random = torch.Generator(into.device).manual_seed((crc32(name.encode()) << 20) ^ self._seed)
        if into.is_cuda:  # made where they stay
            into.uniform_(-_BOUND, _BOUND, generator=random)
        else:
            into.copy_(torch.empty(into.shape).uniform_(-_BOUND, _BOUND, generator=random))

    def close(self) -> None:
        """Nothing is open."""
