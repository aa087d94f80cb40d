"""What the host knows of a step's rows before the device runs them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from octavo.runner.cuda.rows import Sizes, common_pages, read_rows


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


SAME = [5, 6, 7, 8]  # pages of 16 tokens


@pytest.mark.parametrize(
    ("tables", "starts", "pages"),
    [
        ([SAME, SAME, SAME], [64, 70, 90], 4),
        ([SAME, SAME], [63, 70], 3),  # only pages every row has computed
        ([SAME, [5, 6, 7, 9]], [64, 64], 3),
        ([SAME, [5, 6, 9, 8]], [64, 64], 2),  # what is the same behind a difference is not shared
        ([SAME, [5, 9, 7, 8]], [64, 64], 0),  # 16 tokens are not worth it
        ([SAME, [9, 6, 7, 8]], [64, 64], 0),
        ([SAME, SAME], [31, 64], 0),
        ([SAME], [64], 0),  # nobody to share with
    ],
)
def test_pages_that_all_rows_have_in_common(tables, starts, pages):
    mirror = np.zeros((8, 6), np.int32)
    slots = [3, 1, 6][: len(tables)]
    for slot, table in zip(slots, tables, strict=True):
        mirror[slot, :4] = table
    rows = rows_of(*((slot, start, 1) for slot, start in zip(slots, starts, strict=True)))
    assert common_pages(mirror, rows, 16, 32) == pages


def test_only_steps_that_decode_read_pages_once_for_all():
    mirror = np.ones((8, 6), np.int32)
    assert common_pages(mirror, rows_of((0, 64, 1), (1, 64, 1)), 16, 32) == 4
    assert common_pages(mirror, rows_of((0, 64, 1), (1, 64, 2)), 16, 32) == 0
