"""What a plan writes into the slots, and a step's inputs out of them, against numpy and runner/inputs.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from octavo.core.facts import CacheGroup
from octavo.core.messages import StepPlan, Work, pack_work
from octavo.ops.triton.step import PIECE, lay_out_rows, lay_out_tokens, scatter
from octavo.runner.inputs import Inputs
from octavo.runner.slots import Slots
from tests.kernels.fresh import number

LENGTH, PAGES = 90, 1000


def test_segments_land_where_they_belong(device):
    rng = np.random.default_rng(number())
    sizes = [PIECE, 1, PIECE - 1, *rng.integers(1, 40, 20).tolist()]
    gaps = rng.integers(0, 9, len(sizes))
    places = np.cumsum(gaps + sizes) - sizes
    words = rng.integers(-(2**31), 2**31, sum(sizes)).astype(np.int32)
    sources = np.cumsum(sizes) - sizes
    order = rng.permutation(len(sizes))
    table = np.stack([places, 3 * len(sizes) + sources, sizes], 1)[order].astype(np.int32)
    want = np.full(int(places[-1]) + sizes[-1] + 9, -5, np.int32)
    for to, source, size in zip(places, sources, sizes, strict=True):
        want[to : to + size] = words[source : source + size]
    arena = torch.full((len(want),), -5, dtype=torch.int32, device=device)
    scatter(arena, torch.from_numpy(np.concatenate([table.ravel(), words])).to(device), len(sizes))
    assert arena.tolist() == want.tolist()


def slots_of(rng: np.random.Generator, many: int, groups: tuple[CacheGroup, ...]) -> Slots:
    slots = Slots(many, LENGTH, groups)
    slots.tokens[:] = rng.integers(0, 50000, slots.tokens.shape)
    slots.known[:] = rng.integers(1, LENGTH + 1, many)
    slots.computed[:] = rng.integers(0, slots.known)
    slots.samples[:] = rng.random(many) < 0.8
    slots.done[:] = rng.random(many) < 0.2
    for table in slots.tables:
        table[:] = rng.integers(1, PAGES, table.shape)
    return slots


@pytest.mark.parametrize(
    ("many", "rows", "pad", "spare"), [(1, 1, 0, 0), (9, 5, 3, 200), (300, 256, 40, 3), (40, 33, 0, 0)]
)
def test_a_step_s_inputs_are_the_reference_s(many, rows, pad, spare, device):
    """`pad` rows and `spare` tokens are padding; some rows begin later than they are computed (skip)."""
    rng = np.random.default_rng(number())
    groups = (CacheGroup("full", "full", 16), CacheGroup("window", "window", 32, window=40))
    slots, owner = slots_of(rng, many, groups), rng.permutation(many)[:rows]
    left = slots.known[owner] - slots.computed[owner]
    count = np.where(rng.random(rows) < 0.5, left, rng.integers(1, left + 1))
    skip = np.where(rng.random(rows) < 0.3, left - count, 0)
    logits = (rng.random(rows) < 0.8).astype(np.int64)
    plan = np.zeros((4, rows + pad + 2), np.int32)
    plan[:, :rows] = owner, count, logits, skip
    columns = np.stack([slots.computed, slots.known, slots.done, slots.samples]).astype(np.int32)

    slots.computed[owner] += skip
    work = zip(owner, slots.computed[owner], count, np.zeros(rows), logits, strict=True)
    step = Inputs(slots, groups, {"layer": torch.zeros(1)}).build(
        StepPlan(id=0, work=pack_work([Work(*map(int, row)) for row in work]))
    )
    forward, live, all_rows = step.forward, step.count > 0, rows + pad
    total = int(step.count.sum())

    def blank(size: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, device=device)

    row_start = blank(all_rows + 1)
    owners, start, counts, sampled = (blank(all_rows) for _ in range(4))
    logits_at, place = blank(all_rows, torch.int64), blank(all_rows, torch.int64)
    out = row_start, owners, start, counts, logits_at, sampled, place
    lay_out_rows(torch.from_numpy(plan).to(device), torch.from_numpy(columns).to(device), out, all_rows)
    assert row_start.tolist() == [0, *np.cumsum(step.count).tolist(), *[total] * pad]
    assert owners.tolist() == [*owner.tolist(), *[0] * pad]
    assert counts.tolist() == [*step.count.tolist(), *[0] * pad]
    assert start.tolist() == [*np.where(live, step.start, 0).tolist(), *[0] * pad]
    assert np.flatnonzero(sampled.cpu().numpy()).tolist() == step.sampled.tolist() and sampled.max() <= 1
    assert place.cpu().numpy()[step.sampled].tolist() == step.rows.position.tolist()
    assert logits_at.tolist() == [*np.where(live, step.first + step.count - 1, 0).tolist(), *[0] * pad]

    size = max(total, all_rows) + spare
    for g, group in enumerate(groups):
        tokens, positions, places = (blank(size, torch.int64) for _ in range(3))
        lengths, table = blank(all_rows), torch.from_numpy(slots.tables[g]).to(device)
        lay_out_tokens(
            torch.from_numpy(slots.tokens).to(device), table, group.tokens_per_page,
            (row_start, owners, start, counts), (tokens, positions, places, lengths),
        )  # fmt: skip
        empty = [0] * (size - total)
        assert lengths[: len(live)].cpu().numpy()[live].tolist() == (step.start + step.count)[live].tolist()
        assert not lengths.cpu().numpy()[np.flatnonzero([*~live, *[True] * pad])].any()
        if forward is not None:
            assert tokens.tolist() == forward.tokens.tolist() + empty
            assert positions.tolist() == forward.positions.tolist() + empty
            assert places.tolist() == forward.groups[g].slots.tolist() + empty
