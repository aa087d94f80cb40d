"""The kernel that ends a step against runner/commit.py, on random slots and steps."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from octavo.ops.triton.settle import settle
from octavo.runner import commit as reference
from octavo.runner.slots import Slots
from tests.kernels.fresh import number

LENGTH = 40


def slots_of(rng: np.random.Generator, rows: int) -> Slots:
    slots = Slots(rows, LENGTH, ())
    slots.tokens[:] = rng.integers(0, 50, slots.tokens.shape)
    slots.known[:] = rng.integers(1, LENGTH, rows)
    slots.computed[:] = rng.integers(0, slots.known)
    slots.samples[:] = rng.random(rows) < 0.8
    slots.done[:] = rng.random(rows) < 0.2
    slots.earliest[:] = slots.known + rng.integers(-2, 3, rows)
    slots.last[:] = np.minimum(slots.known + rng.integers(0, 4, rows), LENGTH - 1)
    for name, most in (("eos", 8), ("stop", 12)):
        for slot in range(rows):
            slots._set_ends(name, slot, rng.permutation(30)[: rng.integers(0, most)].tolist())
    return slots


def bitmaps(slots: Slots) -> np.ndarray:
    """[2, slots, 2 words] of eos and stop ids below 64."""
    bits = np.zeros((2, len(slots.known), 64), np.uint8)
    for kind, name in enumerate(("eos", "stop")):
        slot, at = np.nonzero(slots.ends[name] >= 0)
        bits[kind, slot, slots.ends[name][slot, at]] = 1
    return np.packbits(bits, axis=2, bitorder="little").view(np.int32)


@pytest.mark.parametrize("turn", range(3))
def test_slots_and_outcome_are_the_reference_s(turn: int, device: str):
    rng = np.random.default_rng(number())
    many, rows, padding = 400, 300, 3
    slots = slots_of(rng, many)
    owner = rng.permutation(many)[:rows]
    wants = rng.random(rows) < 0.8
    start, known = slots.computed[owner], slots.known[owner]
    count = np.where(rng.random(rows) < 0.7, known - start, rng.integers(1, known - start + 1))
    count[slots.done[owner]] = 0
    sampled = np.flatnonzero(slots.samples[owner] & (count > 0) & wants & (start + count == known))
    drawn = rng.integers(0, 30, rows)

    def put(array: np.ndarray, kind: type = np.int32) -> torch.Tensor:
        wide = np.concatenate([array, np.zeros(padding, array.dtype)]) if len(array) == rows else array
        return torch.from_numpy(wide.astype(kind)).to(device)

    took = np.isin(np.arange(rows), sampled)
    history, ends = put(slots.tokens), put(bitmaps(slots))
    columns = [
        put(a) for a in (slots.computed, slots.known, slots.done, slots.samples, slots.earliest, slots.last)
    ]
    out = torch.full((3, rows + padding + 4), -9, dtype=torch.int32, device=device)
    step_inputs = put(owner), put(start), put(count), put(took), put(start + count, np.int64)
    settle(put(drawn), step_inputs, history, ends, tuple(columns), out)
    step = SimpleNamespace(
        slot=owner, start=start, count=count, width=1, drafts=np.zeros(rows, np.int64), sampled=sampled
    )
    want = reference.commit(slots, step, drawn[sampled])
    got = out.cpu().numpy()[:, :rows]
    assert got[0][took].tolist() == want.tokens[took, 0].tolist()
    assert got[1].tolist() == want.counts.tolist()
    assert got[2].tolist() == want.finished.tolist()
    assert not out[1:, rows : rows + padding].any(), "padding brings nothing"
    for column, expected in zip(columns, (slots.computed, slots.known, slots.done), strict=False):
        assert column.tolist() == expected.tolist()
    assert (history.cpu().numpy() == slots.tokens).all()
    assert set(want.finished.tolist()) == {0, 1, 2, 3}, "the case has rows that end in every way"
