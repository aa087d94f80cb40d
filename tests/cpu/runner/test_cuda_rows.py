"""What the host knows of a step's rows before the device runs them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from octavo.runner.cuda.rows import Sizes, read_rows


def rows_of(*work: tuple[int, int, int]):
    """(slot, start, count) of each row."""
    table = np.array([(slot, start, count, 0, 1) for slot, start, count in work], np.int32)
    return read_rows(SimpleNamespace(id=1, work=table.tobytes()), Sizes(64, 2048, 64))


@pytest.mark.parametrize(
    ("work", "fresh", "later"),
    [
        ([(0, 0, 700), (1, 0, 2)], True, False),
        ([(0, 0, 700), (1, 40, 1)], True, False),  # a row of one token decodes
        ([(0, 0, 700), (1, 16, 20)], True, True),
        ([(0, 9, 700), (1, 16, 20)], False, True),
        ([(0, 5, 1), (1, 9, 1)], False, False),
    ],
)
def test_whole_prompts_and_later_chunks_are_known(work, fresh, later):
    bounds = rows_of(*work).bounds
    assert (bounds.fresh, bounds.later) == (fresh, later)


def test_what_follows_whole_prompts_is_not_fresh():
    rows = rows_of((0, 0, 700), (1, 0, 300))
    assert not rows.next(2).bounds.fresh and rows.next(2).bounds.later
    first, second = rows.halves()
    assert first.bounds.fresh and second.bounds.fresh
    head, tail = first.halves()
    assert head.bounds.fresh and not head.bounds.later
    assert tail.bounds.later and not tail.bounds.fresh
