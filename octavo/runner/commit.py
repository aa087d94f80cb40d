"""The end of a step: which samples count, what the slots know afterwards, what the host is told."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.core.messages import LENGTH, RUNNING
from octavo.runner.inputs import Step
from octavo.runner.slots import Slots
from octavo.sampling import verify

Ints = NDArray[np.integer[Any]]


class Outcome(NamedTuple):
    """Rows of the plan, in its order."""

    tokens: Ints  # [rows, width]
    counts: Ints  # [rows]: how many of them are valid
    finished: NDArray[np.uint8]  # [rows]


def commit(slots: Slots, step: Step, samples: Ints) -> Outcome:
    """Writes accepted tokens and lengths; `samples` has one token for each of step.rows."""
    rows = len(step.slot)
    out = Outcome(
        np.zeros((rows, step.width), np.int64), np.zeros(rows, np.int64), np.full(rows, RUNNING, np.uint8)
    )
    slots.computed[step.slot] = np.where(step.count > 0, step.start + step.count, slots.computed[step.slot])
    unsampled = ~slots.samples[step.slot] & (step.count > 0)
    out.finished[unsampled & (step.start + step.count >= slots.known[step.slot])] = LENGTH
    if len(step.sampled):
        _commit_sampled(slots, step, samples, out)
    slots.done[step.slot[out.finished != RUNNING]] = True
    return out


def _commit_sampled(slots: Slots, step: Step, samples: Ints, out: Outcome) -> None:
    slot, drafts = step.slot[step.sampled], step.drafts[step.sampled]
    known = slots.known[slot]
    column = np.arange(step.width)
    real = column <= drafts[:, None]
    table = np.zeros((len(slot), step.width), np.int64)
    table[real] = samples
    proposed = slots.tokens[slot[:, None], known[:, None] + column[:-1]]
    counts = verify.accept(table, proposed, drafts)
    counts, why = verify.finish(table, counts, known, slots.limits(slot))
    kept = column < counts[:, None]
    owner, offset = np.nonzero(kept)
    slots.tokens[slot[owner], known[owner] + offset] = table[kept]
    slots.known[slot] = known + counts
    slots.computed[slot] = known + counts - 1  # the newest token has no KV yet
    out.tokens[step.sampled], out.counts[step.sampled], out.finished[step.sampled] = table, counts, why
