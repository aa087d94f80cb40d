"""Both ends of a step by the library against runner/inputs.py and runner/commit.py, over random plans."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from octavo.core.facts import CacheGroup
from octavo.core.messages import Admission, StepPlan, Work, pack_work
from octavo.core.request import Sampling
from octavo.ops.cpu.lib import NativeError
from octavo.runner.commit import commit
from octavo.runner.inputs import Inputs, Step
from octavo.runner.native_inputs import NativeInputs
from octavo.runner.slots import Slots

ROWS, LENGTH, VOCAB = 12, 90, 6
GROUPS = (CacheGroup("full", "full", 16, 0), CacheGroup("window8", "window", 8, 8))
NO_CACHES = {"layer": torch.zeros(1)}


class Pair:
    """The same slots twice: one for the reference, one for the library."""

    def __init__(self, library, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.plain, self.native = Slots(ROWS, LENGTH, GROUPS), Slots(ROWS, LENGTH, GROUPS)
        self.inputs = Inputs(self.plain, GROUPS, NO_CACHES)
        self.turns = NativeInputs(self.native, GROUPS, NO_CACHES, library)
        self.steps = self.ends = 0

    @property
    def both(self) -> tuple[Slots, Slots]:
        return self.plain, self.native

    def admissions(self) -> tuple[Admission, ...]:
        random = self.random
        free = [slot for slot in range(ROWS) if self.plain.done[slot]]
        return tuple(self._admission(int(slot)) for slot in free if random.random() < 0.4)

    def _admission(self, slot: int) -> Admission:
        random = self.random
        prompt, output = int(random.integers(1, 30)), int(random.integers(0, 3))
        ends = tuple(int(t) for t in random.integers(0, 40, random.integers(0, 7)))
        sampling = Sampling(
            max_tokens=int(random.integers(0, 25)) if random.random() < 0.9 else 0,
            min_tokens=int(random.integers(0, 4)),
            eos=ends[:2],
            stop_token_ids=ends[2:],
        )
        tokens = tuple(int(t) for t in random.integers(0, VOCAB, prompt + output))
        start = int(random.integers(0, prompt))
        pooled = random.random() < 0.1
        return Admission(
            slot=slot,
            tokens=tokens,
            prompt=prompt,
            start=start,
            seed=1,
            sampling=None if pooled else sampling,
        )

    def plan(self) -> StepPlan:
        """Chunks, decodes, and drafts of which some are what will be sampled; an upper bound now and then."""
        random, admit = self.random, self.admissions()
        for slots in self.both:
            for a in admit:
                slots.admit(a)
        work = []
        for slot in random.permutation(ROWS):
            done, known, at = self.plain.done[slot], self.plain.known[slot], self.plain.computed[slot]
            todo = int(known - at)
            if random.random() < 0.2 or (not done and todo < 1):
                continue
            count, drafts = max(1, todo), 0
            if todo > 1 and random.random() < 0.5:
                count = int(random.integers(1, todo))
            elif todo == 1 and random.random() < 0.5:
                drafts = int(random.integers(0, 4))
                count += drafts
            self._feed(int(slot), int(known), drafts)
            bound = int(at + random.integers(0, 2))
            logits = drafts + 1 if count - drafts == todo else int(random.integers(0, 2))
            work.append(Work(int(slot), bound, count, drafts, logits))
        self.steps += 1
        return StepPlan(id=self.steps, admit=admit, work=pack_work(work))

    def _feed(self, slot: int, known: int, drafts: int) -> None:
        line = [int(t) for t in self.random.integers(0, VOCAB, drafts)]
        pages = [int(p) for p in self.random.integers(1, 99, 7)]
        for slots in self.both:
            slots.feed(slot, known, line)
            for group in range(len(GROUPS)):
                slots.set_blocks(slot, group, 0, pages)

    def step(self) -> None:
        plan = self.plan()
        want, got = self.inputs.build(plan), self.turns.build(plan)
        same_step(got, want)
        samples = self.random.integers(0, VOCAB, len(want.rows.slot))
        expected, outcome = commit(self.plain, want, samples), self.turns.commit(got, samples)
        for a, b in zip(outcome, expected, strict=True):
            assert a.tolist() == b.tolist()
        self.ends += int((expected.finished > 0).sum())
        for name in ("tokens", "known", "computed", "done"):
            assert (getattr(self.native, name) == getattr(self.plain, name)).all(), name


def same_step(got: Step, want: Step) -> None:
    for name in ("slot", "start", "count", "drafts", "logits", "first", "sampled"):
        assert getattr(got, name).tolist() == getattr(want, name).tolist(), name
    assert (got.plan_id, got.width) == (want.plan_id, want.width)
    for name in ("slot", "position", "known"):
        assert getattr(got.rows, name).tolist() == getattr(want.rows, name).tolist(), name
    assert (got.forward is None) == (want.forward is None)
    if got.forward is None or want.forward is None:
        return
    for name in ("tokens", "positions", "row_start", "logits_at"):
        assert torch.equal(getattr(got.forward, name), getattr(want.forward, name)), name
    assert got.forward.bounds == want.forward.bounds
    for group, mine, theirs in zip(GROUPS, got.forward.groups, want.forward.groups, strict=True):
        assert torch.equal(mine.lengths, theirs.lengths)
        assert torch.equal(mine.slots, theirs.slots)
        assert mine.tables.shape == theirs.tables.shape
        for row, length in enumerate(theirs.lengths.tolist()):
            reach = -(-length // group.tokens_per_page)  # what lies behind is of earlier steps
            assert torch.equal(mine.tables[row, :reach], theirs.tables[row, :reach]), row


@pytest.mark.parametrize("seed", range(8))
def test_inputs_and_outcome_are_the_reference_s(guarded, seed):
    pair = Pair(guarded, seed)
    for _ in range(150):
        pair.step()
    assert pair.ends > 50, "rows came to an end"


def admitted(library) -> tuple[Slots, NativeInputs]:
    slots = Slots(ROWS, LENGTH, GROUPS)
    slots.admit(Admission(slot=2, tokens=(1, 2, 3), prompt=3, start=0, seed=1, sampling=Sampling()))
    return slots, NativeInputs(slots, GROUPS, NO_CACHES, library)


def test_a_plan_that_goes_on_advances_the_table(guarded):
    slots, turns = admitted(guarded)
    turns.commit(turns.build(StepPlan(id=1, work=pack_work([Work(2, 0, 3, 0, 1)]))), np.array([9]))
    for i in range(3):
        work = pack_work([Work(2, 3, 1, 0, 1)]) if i == 0 else b""
        step = turns.build(StepPlan(id=2 + i, work=work, same=i > 0))
        assert (step.start.tolist(), step.rows.position.tolist()) == ([3 + i], [4 + i])
        turns.commit(step, np.array([10 + i]))
    assert slots.tokens[2, :7].tolist() == [1, 2, 3, 9, 10, 11, 12]


@pytest.mark.parametrize(
    "work",
    [
        Work(ROWS, 0, 1, 0, 1),
        Work(-1, 0, 1, 0, 1),
        Work(2, 0, 4, 0, 1),
        Work(2, -1, 3, 0, 1),
        Work(2, 0, 3, 3, 1),
        Work(2, 0, -1, 0, 1),
        Work(2, 0, LENGTH * 2, LENGTH * 2 - 3, 1),
        Work(2, 0, LENGTH + 16, LENGTH + 13, 1),  # all of the slot: the sample would be its neighbour's
    ],
)
def test_a_plan_that_cannot_be_is_refused(guarded, work):
    _, turns = admitted(guarded)
    with pytest.raises(NativeError, match="contradicts"):
        turns.build(StepPlan(id=1, work=pack_work([work])))


def test_an_empty_plan_is_legal(guarded):
    _, turns = admitted(guarded)
    step = turns.build(StepPlan(id=1))
    assert step.forward is None
    outcome = turns.commit(step, np.zeros(0, np.int64))
    assert outcome.counts.tolist() == []
