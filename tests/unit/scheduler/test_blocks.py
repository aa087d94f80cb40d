"""Page ids, references, the prefix index."""

from __future__ import annotations

import pytest

from octavo.scheduler.blocks import BlockPool


def test_the_null_page_is_never_handed_out() -> None:
    pool = BlockPool(5, 1)
    assert pool.free == pool.total == 4
    assert sorted(pool.take(4)) == [1, 2, 3, 4] and pool.free == 0


def test_blank_pages_go_before_cached_ones_and_the_oldest_cached_first() -> None:
    pool = BlockPool(5, 1)
    a, b, c = pool.take(3)
    for name, page in (("a", a), ("b", b), ("c", c)):
        pool.publish(0, name.encode(), page)
    pool.give([b])
    pool.give([a])
    assert pool.take(1)[0] not in (a, b, c)
    pool.hold(b)  # a hit: b is now younger than a
    pool.give([b])
    assert pool.take(1) == [a] and pool.find(0, b"a") is None and pool.find(0, b"b") == b
    assert pool.take(1) == [b] and pool.find(0, b"b") is None


def test_what_is_given_first_is_evicted_first() -> None:
    pool = BlockPool(4, 1)
    pages = pool.take(3)
    for n, page in enumerate(pages):
        pool.publish(0, bytes([n]), page)
    pool.give(reversed(pages))
    assert pool.take(3) == pages[::-1]


def test_references_are_counted() -> None:
    pool = BlockPool(3, 1)
    (page,) = pool.take(1)
    pool.hold(page)
    pool.give([page])
    assert pool.free == 1
    pool.give([page, 0])  # null pages in a table are skipped
    assert pool.free == 2
    with pytest.raises(AssertionError, match="twice"):
        pool.give([page])


def test_equal_contents_are_published_once_and_per_group() -> None:
    pool = BlockPool(5, 2)
    a, b, c = pool.take(3)
    pool.publish(0, b"x", a)
    pool.publish(0, b"x", b)
    pool.publish(1, b"x", c)
    assert (pool.find(0, b"x"), pool.find(1, b"x")) == (a, c)
    pool.give([a, b, c])
    assert pool.take(2) != [a, c]  # b went back blank and is used before anything cached


def test_forget() -> None:
    pool = BlockPool(4, 1)
    a, b = pool.take(2)
    pool.publish(0, b"a", a)
    pool.publish(0, b"b", b)
    pool.give([a])
    pool.forget()
    assert pool.find(0, b"a") is None and pool.find(0, b"b") is None
    pool.give([b])
    assert pool.free == 3 and not pool._names
