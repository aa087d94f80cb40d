"""Lists of ids that requests bring: biases, bad words, ends, allowed tokens. Rebuilt when rows come or go."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.core.messages import Admission
from octavo.core.request import Sampling
from octavo.sampling.device.upload import upload

_RANGES = 8  # start and count of: biases, banned ids, ends, phrases (ops/triton/sample_edits.py)


class Flat(NamedTuple):
    """The lists of all slots, end to end, on the device."""

    ranges: Tensor  # int32 [slots, 8]
    ids: Tensor  # int32
    values: Tensor  # float32, beside ids
    phrases: Tensor  # int32 [n, 2]: start and length in ids
    allowed: Tensor  # int32 [slots]: a line of bitmaps, -1: everything is allowed
    bitmaps: Tensor  # int32 [n, ceil(vocab / 32)]


class _Entry(NamedTuple):
    bias: tuple[tuple[int, float], ...]
    banned: tuple[int, ...]
    ends: tuple[int, ...]
    phrases: tuple[tuple[int, ...], ...]
    bitmap: NDArray[np.int32] | None


class Lists:
    """Keeps what slots bring and lays it out when asked."""

    def __init__(self, slots: int, vocab: int, device: torch.device) -> None:
        self._slots, self._vocab, self._device = slots, vocab, device
        self._entries: dict[int, _Entry] = {}
        self._flat: Flat | None = None

    def admit(self, a: Admission) -> None:
        if a.sampling is not None and _brings_lists(a.sampling):
            self._entries[a.slot] = _entry(a.sampling, self._vocab)
            self._flat = None

    def release(self, slot: int) -> None:
        if self._entries.pop(slot, None) is not None:
            self._flat = None

    def flat(self) -> Flat:
        if self._flat is None:
            self._flat = self._lay_out()
        return self._flat

    def _lay_out(self) -> Flat:
        ranges = np.zeros((self._slots, _RANGES), np.int32)
        allowed = np.full(self._slots, -1, np.int32)
        ids: list[int] = []
        values: dict[int, float] = {}
        phrases: list[tuple[int, int]] = []
        bitmaps: list[NDArray[np.int32]] = []
        for slot, entry in self._entries.items():
            ranges[slot, 0:2] = len(ids), len(entry.bias)
            values.update({len(ids) + i: value for i, (_, value) in enumerate(entry.bias)})
            ids += [id for id, _ in entry.bias]
            ranges[slot, 2:4] = len(ids), len(entry.banned)
            ids += entry.banned
            ranges[slot, 4:6] = len(ids), len(entry.ends)
            ids += entry.ends
            ranges[slot, 6:8] = len(phrases), len(entry.phrases)
            for phrase in entry.phrases:
                phrases.append((len(ids), len(phrase)))
                ids += phrase
            if entry.bitmap is not None:
                allowed[slot] = len(bitmaps)
                bitmaps.append(entry.bitmap)
        beside = np.zeros(max(len(ids), 1), np.float32)
        beside[list(values)] = list(values.values())
        maps = np.stack(bitmaps) if bitmaps else np.zeros((0, -(-self._vocab // 32)), np.int32)
        return Flat(
            *(
                upload(array, self._device)
                for array in (
                    ranges,
                    np.array(ids or [0], np.int32),
                    beside,
                    np.array(phrases or [(0, 0)], np.int32),
                    allowed,
                    maps,
                )
            )
        )


def _brings_lists(s: Sampling) -> bool:
    return bool(s.logit_bias or s.bad_words or s.min_tokens) or s.allowed_token_ids is not None


def _entry(s: Sampling, vocab: int) -> _Entry:
    return _Entry(
        tuple(dict(s.logit_bias).items()),
        tuple(word[0] for word in s.bad_words if len(word) == 1),
        tuple(dict.fromkeys(s.eos + s.stop_token_ids)) if s.min_tokens else (),
        tuple(word for word in s.bad_words if len(word) > 1),
        None if s.allowed_token_ids is None else bitmap_of(s.allowed_token_ids, vocab),
    )


def bitmap_of(ids: Any, vocab: int) -> NDArray[np.int32]:
    """int32 [ceil(vocab / 32)], bit t % 32 of word t // 32 set for each id t."""
    bits = np.zeros(-(-vocab // 32) * 32, np.uint8)
    bits[np.array(ids, np.int64)] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)
