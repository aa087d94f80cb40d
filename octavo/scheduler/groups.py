"""Cache groups: which pages a row needs in each, what it may share, and when it gives them back.

All groups draw from one BlockPool. Block b of a group covers positions [b * size, (b + 1) * size);
it is complete once the row has (b + 1) * size positions. The table a device sees lists a group's
fixed pages first and the blocks after them:

full    block b holds its positions' KV, for ever
window  the same, but blocks that no later position can see are given back
state   drafts + 1 fixed pages are the live states (one per unverified token); block b is a
        snapshot of the state after (b + 1) * size positions, kept for the prefix cache only
cross   fixed pages for the encoder's output, nothing else

Knows nothing of queues, budgets or steps.
"""

from __future__ import annotations

from math import gcd, lcm

from octavo.core.facts import CacheGroup, CachePlan
from octavo.core.messages import NULL_BLOCK
from octavo.core.request import EngineRequest
from octavo.scheduler.blocks import BlockPool
from octavo.scheduler.hashing import Chain, root
from octavo.scheduler.state import Limits, RequestState, Table

UNBOUNDED = 1 << 60
News = list[tuple[int, int, tuple[int, ...]]]  # (group, first table index, page ids)


class FullGroup:
    """Plain KV; the base of the other kinds."""

    trims = False
    keyed = True

    def __init__(self, index: int, spec: CacheGroup, limits: Limits) -> None:
        self.index = index
        self.size = spec.tokens_per_page
        self.window = spec.window
        self.drafts = limits.drafts
        self.caching = limits.prefix_caching
        self.applied = spec.publish == "applied" or spec.kind in ("state", "cross")
        # positions a row may have beyond its settled ones: its chunks in flight and the next one
        step = min(limits.chunk_cap or limits.budget, limits.budget) + limits.drafts
        self.ahead = step * (limits.depth + 1)

    def fixed(self, request: EngineRequest) -> int:
        return 0

    def blocks(self, end: int) -> int:
        """Blocks that hold positions [0, end)."""
        return -(-end // self.size)

    def capacity(self, blocks: int) -> int:
        """Positions that so many blocks hold: the inverse of `blocks`."""
        return blocks * self.size

    def need(self, length: int) -> range:
        """Complete blocks a row must find to go on at `length`."""
        return range(length // self.size)

    def stale(self, settled: int) -> int:
        """Blocks below are of no use to a row that has settled so many positions."""
        return 0

    def most(self, length: int) -> int:
        """Pages a row alone holds at once on its way to `length`."""
        return self.blocks(length)


class WindowGroup(FullGroup):
    """Position p sees positions (p - window, p]."""

    trims = True

    def need(self, length: int) -> range:
        return range(self.stale(length), length // self.size)

    def stale(self, settled: int) -> int:
        return max(0, settled - self.window + 1) // self.size

    def most(self, length: int) -> int:
        return min(self.blocks(length), self.blocks(self.window + self.ahead) + 2)


class StateGroup(FullGroup):
    """A recurrent state; without prefix caching no snapshots are taken."""

    trims = True

    def fixed(self, request: EngineRequest) -> int:
        return self.drafts + 1

    def blocks(self, end: int) -> int:
        return end // self.size if self.caching else 0

    def capacity(self, blocks: int) -> int:
        return (blocks + 1) * self.size - 1 if self.caching else UNBOUNDED

    def need(self, length: int) -> range:
        blocks = length // self.size
        return range(max(0, blocks - 1), blocks)

    def stale(self, settled: int) -> int:
        return max(0, settled - 1) // self.size  # the state at `settled` itself may be yet to be read

    def most(self, length: int) -> int:
        return self.drafts + 1 + min(self.blocks(length), self.blocks(self.ahead) + 2)


class CrossGroup(FullGroup):
    """The encoder's output of a request's media."""

    keyed = False

    def fixed(self, request: EngineRequest) -> int:
        return -(-sum(span.length for span in request.media) // self.size)

    def blocks(self, end: int) -> int:
        return 0

    def capacity(self, blocks: int) -> int:
        return UNBOUNDED

    def need(self, length: int) -> range:
        return range(0)


KINDS = {"full": FullGroup, "window": WindowGroup, "state": StateGroup, "cross": CrossGroup}


class CacheGroups:
    """The tables of every row, and the prefix index over all groups."""

    def __init__(self, cache: CachePlan, limits: Limits) -> None:
        self.pool = BlockPool(cache.pages, len(cache.groups))
        self.groups = [KINDS[spec.kind](i, spec, limits) for i, spec in enumerate(cache.groups)]
        self._keyed = [g for g in self.groups if g.keyed]
        self._planned = [g for g in self._keyed if not g.applied]
        self._trims = [g for g in self.groups if g.trims]
        self._tidies = bool(self._trims) or len(self._planned) < len(self._keyed)
        self._unit = lcm(*(g.size for g in self._keyed))
        self._beat = gcd(*(g.size for g in self._keyed)) or 1
        self._caching = limits.prefix_caching and bool(self._keyed)
        self._redo_last = limits.proposer_kv
        self._model_key = limits.model_key
        self.reach = self._reach(limits.max_model_len)

    def _reach(self, longest: int) -> int:
        """Most tokens of a row that has the whole pool to itself."""
        low, high = 0, longest
        while low < high:
            middle = (low + high + 1) // 2
            if sum(g.most(middle) for g in self.groups) <= self.pool.total:
                low = middle
            else:
                high = middle - 1
        return low

    # ---- the start of a row: from the prefix cache, or from the row it forks ----------------

    def open(self, r: RequestState) -> None:
        """Gives a row its tables, with the longest prefix that every group can serve."""
        r.tables = [Table() for _ in self.groups]
        hit = self._longest(r) if self._chain(r) and not r.uncached else 0
        for g in self._keyed:
            table = r.tables[g.index]
            need, blocks = g.need(hit), hit // g.size
            table.ids = [NULL_BLOCK] * blocks
            table.low, table.published = need.start, blocks
            if hit:
                keys = r.chains[g.size].keys
                for b in need:
                    page = self.pool.find(g.index, keys[b])
                    assert page is not None
                    self.pool.hold(page)
                    table.ids[b] = page
        self._began(r, hit)

    def fork(self, r: RequestState, parent: RequestState, length: int) -> list[tuple[int, int, int]] | None:
        """Gives a row the parent's first `length` positions: full blocks are shared, the partial
        one is to be copied, as (group, src, dst). None, and nothing taken, where that cannot be."""
        if not self._can_fork(parent, length):
            return None
        self._chain(r)
        r.tables = [Table() for _ in self.groups]
        copies = []
        for g in self.groups:
            table, theirs = r.tables[g.index], parent.tables[g.index]
            need, blocks = g.need(length), length // g.size
            table.ids = [NULL_BLOCK] * need.start + theirs.ids[need.start : blocks]
            table.low, table.published = need.start, blocks
            for b in need:
                self.pool.hold(table.ids[b])
            if length % g.size:
                page = self.pool.take(1)[0]
                copies.append((g.index, theirs.ids[blocks], page))
                table.ids.append(page)
        self._began(r, length)
        return copies

    def _can_fork(self, parent: RequestState, length: int) -> bool:
        partial = 0
        for g in self.groups:
            ids = parent.tables[g.index].ids
            need, blocks = g.need(length), length // g.size
            if not g.keyed or len(ids) < blocks or not all(ids[need.start : blocks]):
                return False
            if length % g.size:
                if isinstance(g, StateGroup) or not ids[blocks]:
                    return False
                partial += 1
        return partial <= self.pool.free

    def _began(self, r: RequestState, length: int) -> None:
        r.computed = r.settled = length
        r.capacity = 0
        r.offer_at = length if self._caching and self._planned else UNBOUNDED
        r.tidy_at = length if self._tidies else UNBOUNDED

    def _chain(self, r: RequestState) -> bool:
        if self._caching and not r.chains:
            start = root(self._model_key, r.request)
            for g in self._keyed:
                r.chains.setdefault(g.size, Chain(start, g.size, r.request.media))
        return self._caching

    def _longest(self, r: RequestState) -> int:
        """A hit always leaves a token to compute: without one there is nothing to sample from."""
        unit = self._unit
        length = (len(r.tokens) - 1) // unit * unit
        trimming = []
        for g in self._keyed:
            keys = r.chains[g.size].extend(r.tokens, length // g.size)
            if g.trims:
                trimming.append(g)
                continue
            found = 0
            while found < length // g.size and self.pool.find(g.index, keys[found]) is not None:
                found += 1
            length = found * g.size // unit * unit
        if self._redo_last:
            length = max(0, length - unit)
        while length and not all(self._serves(g, r, length) for g in trimming):
            length -= unit
        return length

    def _serves(self, g: FullGroup, r: RequestState, length: int) -> bool:
        keys = r.chains[g.size].keys
        return all(self.pool.find(g.index, keys[b]) is not None for b in reversed(g.need(length)))

    # ---- while it runs ----------------------------------------------------------------------

    def grow(self, r: RequestState, end: int, spare: int = 0) -> News | None:
        """Pages for positions [0, end), what is new of them; None, and nothing taken, when the
        pool has not enough (and `spare` more)."""
        wants = []
        total = spare
        for g in self.groups:
            table = r.tables[g.index]
            fixed = g.fixed(r.request) - len(table.fixed)
            more = max(0, g.blocks(end) - len(table.ids))
            total += fixed + more
            wants.append((g, table, fixed, more))
        if total > self.pool.free:
            return None
        news: News = []
        capacity = UNBOUNDED
        for g, table, fixed, more in wants:
            if fixed:
                table.fixed = self.pool.take(fixed)
                news.append((g.index, 0, tuple(table.fixed)))
            if more:
                pages = self.pool.take(more)
                news.append((g.index, len(table.fixed) + len(table.ids), tuple(pages)))
                table.ids += pages
            capacity = min(capacity, g.capacity(len(table.ids)))
        r.capacity = capacity
        return news

    def whole(self, r: RequestState) -> News:
        """Every page of a row, for its admission."""
        news: News = []
        for g, table in zip(self.groups, r.tables, strict=True):
            if table.fixed:
                news.append((g.index, 0, tuple(table.fixed)))
            if len(table.ids) > table.low:
                news.append((g.index, len(table.fixed) + table.low, tuple(table.ids[table.low :])))
        return news

    def offer(self, r: RequestState, certain: int) -> None:
        """Publishes blocks as soon as their step is planned, where the group allows it."""
        self._publish(self._planned, r, certain)
        r.offer_at = min((r.tables[g.index].published + 1) * g.size for g in self._planned)

    def tidy(self, r: RequestState) -> None:
        """Publishes what results have confirmed, then gives back what no later step can read."""
        if self._caching:
            self._publish(self._keyed, r, r.settled)
        for g in self._trims:
            table = r.tables[g.index]
            stale = min(g.stale(r.settled), len(table.ids))
            if stale > table.low:
                self.pool.give(reversed(table.ids[table.low : stale]))
                table.ids[table.low : stale] = [NULL_BLOCK] * (stale - table.low)
                table.low = stale
        r.tidy_at = (r.settled // self._beat + 1) * self._beat

    def close(self, r: RequestState) -> None:
        """Takes a row's pages away. Later blocks are evicted first: they need the earlier ones."""
        if self._caching:
            self._publish(self._keyed, r, r.settled)
        for table in r.tables:
            self.pool.give(table.fixed)
            self.pool.give(reversed(table.ids))
        r.tables = []
        r.capacity = r.computed = r.settled = 0

    def forget(self, rows: list[RequestState]) -> None:
        """Empties the prefix index; these rows publish nothing more."""
        self.pool.forget()
        for r in rows:
            r.offer_at = UNBOUNDED
            for table in r.tables:
                table.published = UNBOUNDED

    def unwritten(self, r: RequestState) -> set[tuple[int, int]]:
        """(group, page) of those that the row's steps in flight are to write."""
        return {
            (g.index, page)
            for g, table in zip(self.groups, r.tables, strict=False)
            for page in table.ids[r.settled // g.size :]
            if page
        }

    def reads(self, r: RequestState, pages: set[tuple[int, int]]) -> bool:
        return any(
            (g.index, page) in pages for g, t in zip(self.groups, r.tables, strict=False) for page in t.ids
        )

    def _publish(self, groups: list[FullGroup], r: RequestState, certain: int) -> None:
        for g in groups:
            table = r.tables[g.index]
            blocks = certain // g.size
            if blocks <= table.published:
                continue
            keys = r.chains[g.size].extend(r.tokens, blocks)
            for b in range(table.published, blocks):
                if page := table.ids[b]:
                    self.pool.publish(g.index, keys[b], page)
            table.published = blocks
