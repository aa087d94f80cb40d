"""Page ids, their reference counts and the prefix index. Knows nothing of tensors, requests or time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable


class BlockPool:
    """One pool of equal pages for all cache groups. Id 0 is the null page and is never handed out.

    A page is held (references > 0), cached (free, but its contents are still in the index) or
    blank. Blank pages are handed out first, then cached ones, least recently used first.
    """

    def __init__(self, pages: int, groups: int) -> None:
        self.total = pages - 1
        self.refs = [0] * pages
        self._blank = list(range(pages - 1, 0, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._index: list[dict[bytes, int]] = [{} for _ in range(groups)]
        self._names: dict[int, tuple[int, bytes]] = {}  # page -> (group, key) it is known under

    @property
    def free(self) -> int:
        return len(self._blank) + len(self._cached)

    def take(self, count: int) -> list[int]:
        """`count` pages with one reference each; the caller has looked at `free`."""
        blank = self._blank
        if count <= len(blank):
            pages = [blank.pop() for _ in range(count)]
        else:
            pages = [blank.pop() if blank else self._evict() for _ in range(count)]
        for page in pages:
            self.refs[page] = 1
        return pages

    def hold(self, page: int) -> None:
        """One more reference, to a page that is held or cached."""
        if self.refs[page] == 0:
            del self._cached[page]
        self.refs[page] += 1

    def give(self, pages: Iterable[int]) -> None:
        """Drops one reference each (null pages are skipped). What is given first is evicted first."""
        refs, names = self.refs, self._names
        for page in pages:
            if page == 0:
                continue
            left = refs[page] = refs[page] - 1
            assert left >= 0, "a page was given back twice"
            if left == 0:
                if page in names:
                    self._cached[page] = None
                else:
                    self._blank.append(page)

    def find(self, group: int, key: bytes) -> int | None:
        return self._index[group].get(key)

    def publish(self, group: int, key: bytes, page: int) -> None:
        """Offers a held page for reuse, unless an equal one is already there."""
        index = self._index[group]
        if key not in index and page not in self._names:
            index[key] = page
            self._names[page] = (group, key)

    def forget(self) -> None:
        """Empties the index; held pages stay with their owners."""
        self._blank.extend(self._cached)
        self._cached.clear()
        self._names.clear()
        for index in self._index:
            index.clear()

    def _evict(self) -> int:
        page, _ = self._cached.popitem(last=False)
        group, key = self._names.pop(page)
        del self._index[group][key]
        return page
