"""The commit kernel against runner/commit.py, on random slots and steps."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from octavo.ops.triton.commit import SlotTables, commit
from octavo.runner import commit as reference
from octavo.runner.slots import Slots

LENGTH = 40


def slots_of(rng: np.random.Generator, rows: int) -> Slots:
    slots = Slots(rows, LENGTH, ())
    slots.tokens[:] = rng.integers(0, 50, slots.tokens.shape)
    slots.known[:] = rng.integers(1, LENGTH, rows)
    slots.computed[:] = rng.integers(0, slots.known)
    slots.samples[:] = rng.random(rows) < 0.8
    slots.done[:] = rng.random(rows) < 0.2
    slots._earliest[:] = slots.known + rng.integers(-2, 3, rows)
    slots._last[:] = np.minimum(slots.known + rng.integers(0, 4, rows), LENGTH - 1)
    for name, most in (("eos", 3), ("stop", 20)):
        for slot in range(rows):
            slots._set_ends(name, slot, rng.permutation(30)[: rng.integers(0, most)].tolist())
    return slots


def padded(table: np.ndarray, device: str) -> torch.Tensor:
    wide = np.full((len(table), -(-table.shape[1] // 8) * 8), -1, np.int32)
    wide[:, : table.shape[1]] = table
    return torch.from_numpy(wide).to(device)


@pytest.mark.parametrize("seed", range(6))
def test_slots_and_outcome_are_the_reference_s(seed: int, device: str):
    rng = np.random.default_rng(seed)
    number, rows, padding = 400, 300, 3
    slots = slots_of(rng, number)
    owner = rng.permutation(number)[:rows]
    wants = rng.random(rows) < 0.8
    start, known = slots.computed[owner], slots.known[owner]
    count = np.where(rng.random(rows) < 0.7, known - start, rng.integers(1, known - start + 1))
    count[slots.done[owner]] = 0
    sampled = np.flatnonzero(slots.samples[owner] & (count > 0) & wants & (start + count == known))
    drawn = rng.integers(0, 30, rows)  # one for each row that the plan wants sampled
    at = np.where(wants, np.cumsum(wants) - 1, -1)

    def put(array: np.ndarray, kind: type) -> torch.Tensor:
        return torch.from_numpy(array.astype(kind)).to(device)

    tables = SlotTables(
        put(slots.tokens, np.int32),
        *(put(a, np.int64) for a in (slots.known, slots.computed, slots._earliest, slots._last)),
        *(put(a, np.bool_) for a in (slots.samples, slots.done)),
        *(padded(slots._ends[name], device) for name in ("eos", "stop")),
    )
    out = torch.full((rows + padding, 3), -9, dtype=torch.int32, device=device)
    ends = np.concatenate([[0], np.cumsum(count), np.full(padding, count.sum())])
    commit(
        put(drawn, np.int32),
        put(np.concatenate([at, np.zeros(padding)]), np.int32),
        put(np.concatenate([owner, np.zeros(padding)]), np.int32),
        put(ends, np.int32),
        tables,
        out,
    )
    step = SimpleNamespace(
        slot=owner, start=start, count=count, width=1, drafts=np.zeros(rows, np.int64), sampled=sampled
    )
    want = reference.commit(slots, step, drawn[at[sampled]])
    got = out.cpu().numpy()
    assert got[:rows, 0].tolist() == want.tokens[:, 0].tolist()
    assert got[:rows, 1].tolist() == want.counts.tolist()
    assert got[:rows, 2].tolist() == want.finished.tolist()
    assert not got[rows:].any(), "padding brings nothing"
    for name in ("known", "computed", "done"):
        assert getattr(tables, name).cpu().tolist() == getattr(slots, name).tolist(), name
    assert (tables.history.cpu().numpy() == slots.tokens).all()
    assert set(want.finished.tolist()) == {0, 1, 2, 3}, "the case has rows that end in every way"
