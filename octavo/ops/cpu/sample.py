"""The draw of ops/sample.py on the native library: one call for all rows, the same tokens.

Knows pointers and what a request may ask of the distribution, nothing of single tokens.
"""

from __future__ import annotations

from ctypes import Structure, byref, c_int64, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.core.request import Sampling
from octavo.ops.cpu.lib import Engine

Ints = NDArray[np.integer[Any]]


class SampleStruct(Structure):
    """abi.h's OctSample."""

    _fields_ = (
        ("rows", c_int64), ("vocab", c_int64), ("logits", c_void_p), ("slots", c_void_p),
        ("positions", c_void_p), ("temperature", c_void_p), ("gap", c_void_p), ("top_k", c_void_p),
        ("top_p", c_void_p), ("seed", c_void_p), ("tokens", c_void_p),
    )  # fmt: skip


class Wishes:
    """What the request of each slot asked for; neutral values where it asked for nothing."""

    def __init__(self, slots: int) -> None:
        self.temperature = np.zeros(slots, np.float32)  # 0: greedy
        self.gap = np.full(slots, -np.inf, np.float32)  # log of min_p
        self.top_k = np.zeros(slots, np.int64)  # 0: all
        self.top_p = np.ones(slots, np.float64)
        self.seed = np.zeros(slots, np.int64)

    def set(self, slot: int, seed: int, s: Sampling | None) -> None:
        """A request takes the slot; without settings its rows are greedy."""
        self.seed[slot] = seed
        self.temperature[slot] = s.temperature if s else 0.0
        self.gap[slot] = np.log(s.min_p) if s and s.min_p else -np.inf
        self.top_k[slot], self.top_p[slot] = (s.top_k, s.top_p) if s else (0, 1.0)


class NativeSampler:
    """Draws for `wishes`, whose arrays must stay where they are."""

    def __init__(self, engine: Engine, wishes: Wishes) -> None:
        self._engine = engine
        self._wishes = wishes
        self._struct = SampleStruct()
        for name in ("temperature", "gap", "top_k", "top_p", "seed"):
            setattr(self._struct, name, address(getattr(wishes, name)))

    def __call__(self, logits: NDArray[np.float32], slots: Ints, positions: Ints) -> NDArray[np.int64]:
        """[m, vocab], [m], [m] -> tokens [m]; -1 for a row whose likeliest logit is no finite number."""
        rows, vocab = logits.shape
        assert logits.dtype == np.float32 and logits.flags.c_contiguous
        slots = np.ascontiguousarray(slots, np.int64)
        positions = np.ascontiguousarray(positions, np.int64)
        assert len(slots) == len(positions) == rows
        tokens = np.empty(rows, np.int64)
        s = self._struct
        s.rows, s.vocab, s.logits, s.tokens = rows, vocab, address(logits), address(tokens)
        s.slots, s.positions = address(slots), address(positions)
        self._engine.sample(byref(s))
        return tokens


def address(array: NDArray[Any]) -> int:
    """Where an array begins; array.ctypes takes twice as long."""
    at: int = array.__array_interface__["data"][0]
    return at
