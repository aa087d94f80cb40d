"""Bugs to plant: a line of the real source, and what a careless change would make of it.

The mutated module is imported afresh, with every module that stands on it; the real ones stay as
they are.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any, NamedTuple

PACKAGE = "octavo.scheduler"
LOOP = "octavo.engine.loop"


class Mutant(NamedTuple):
    name: str
    module: str  # of octavo.scheduler, or the loop
    old: str
    new: str
    by: str = "fuzz"  # or "hits": it gives right answers, with less reuse or with too much


class Planted(NamedTuple):
    scheduler: Any
    loop: Any


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, mutant: Mutant) -> None:
        super().__init__(name, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path).decode()
        assert source.count(self._mutant.old) == 1, f"{self._mutant.name}: its line is gone or not unique"
        return self.source_to_code(source.replace(self._mutant.old, self._mutant.new).encode(), self.path)


class _Finder(MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._mutant.module:
            return None
        spec = PathFinder.find_spec(fullname, path)
        assert spec is not None and spec.origin is not None
        spec.loader = _Loader(fullname, spec.origin, self._mutant)
        return spec


@contextmanager
def planted(mutant: Mutant) -> Iterator[Planted]:
    """The scheduler and the loop with that bug."""
    ours = [name for name in sys.modules if name.startswith(PACKAGE) or name == LOOP]
    kept = {name: sys.modules.pop(name) for name in ours}
    parents = {name: sys.modules[name.rpartition(".")[0]] for name in (PACKAGE, LOOP)}
    finder = _Finder(mutant)
    sys.meta_path.insert(0, finder)
    try:
        scheduler = importlib.import_module(f"{PACKAGE}.scheduler").Scheduler
        loop = importlib.import_module(LOOP).Loop
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.startswith(PACKAGE) or name == LOOP]:
            del sys.modules[name]
        sys.modules.update(kept)
        for name, parent in parents.items():
            setattr(parent, name.rpartition(".")[2], kept[name])
    yield Planted(scheduler, loop)


def _in(module: str, name: str, old: str, new: str, by: str = "fuzz") -> Mutant:
    return Mutant(name, f"{PACKAGE}.{module}", old, new, by)


MUTANTS = (
    # allocation
    _in("groups", "one page too few", "return -(-end // self.size)", "return end // self.size"),
    _in("groups", "capacity is overstated", "return blocks * self.size\n", "return blocks * self.size + 1\n"),
    _in("blocks", "pages are handed out without a reference", "self.refs[page] = 1", "self.refs[page] = 0"),
    _in("blocks", "an evicted page keeps its name", "        del self._index[group][key]\n", ""),
    _in(
        "blocks", "a hit stays in the free list", "            del self._cached[page]\n", "            pass\n"
    ),
    _in("groups", "a hit takes no reference", "                    self.pool.hold(page)\n", ""),
    # publishing
    _in("scheduler", "unknown tokens are published", "certain = min(end, len(r.tokens))", "certain = end"),
    _in(
        "groups",
        "a block is published before it is full",
        "blocks = certain // g.size",
        "blocks = -(-certain // g.size)",
    ),
    _in(
        "scheduler",
        "the last token's block is published",
        "r.settled = len(r.tokens) - 1 if n else end",
        "r.settled = len(r.tokens)",
    ),
    _in(
        "groups",
        "a running state is published when planned",
        "self._planned = [g for g in self._keyed if not g.applied]",
        "self._planned = self._keyed",
    ),
    _in(
        "hashing",
        "names do not depend on what came before",
        "digest = blake2b(self._last, digest_size=_SIZE)",
        "digest = blake2b(digest_size=_SIZE)",
    ),
    _in(
        "hashing",
        "tenants share a cache",
        '(model_key, request.adapter or "", request.salt)',
        '(model_key, request.adapter or "")',
        "hits",
    ),
    _in(
        "groups",
        "nothing is published while it runs",
        "r.offer_at = length if",
        "r.offer_at = UNBOUNDED if",
        "hits",
    ),
    _in(
        "groups",
        "a finished row publishes nothing",
        "r.tables = []\n        r.capacity",
        "self.pool.forget()\n        r.tables = []\n        r.capacity",
        "hits",
    ),
    _in(
        "groups",
        "a hit leaves nothing to compute",
        "length = (len(r.tokens) - 1) // unit * unit",
        "length = len(r.tokens) // unit * unit",
    ),
    _in(
        "groups",
        "the state's snapshot is not looked up",
        "while length and not all(",
        "while False and not all(",
    ),
    # lengths, rollback
    _in("scheduler", "rejected drafts stay counted", "r.computed -= upper - n", "r.computed -= 0"),
    _in(
        "scheduler",
        "window pages are freed on the upper bound",
        "r.settled = len(r.tokens) - 1 if upper else f.ends[i]",
        "r.settled = r.computed",
    ),
    _in(
        "groups",
        "the window loses a position",
        "return max(0, settled - self.window + 1) // self.size",
        "return max(0, settled - self.window + 1 + self.size) // self.size",
    ),
    _in("scheduler", "pending is never settled", "r.pending -= upper", "r.pending -= n"),
    _in(
        "scheduler",
        "drafts run beyond the last token",
        "min(most, left - 1, f.budget - 1)",
        "min(most, f.budget - 1)",
    ),
    _in(
        "scheduler",
        "a row without room for a token goes on",
        "if left <= 0 or not f.budget",
        "if left < 0 or not f.budget",
    ),
    # budget, rows
    _in("flight", "the budget is not charged", "        self.budget -= todo\n", ""),
    _in(
        "scheduler",
        "the chunk cap is forgotten",
        "todo = min(len(r.tokens) - r.computed, self._cap, f.budget - keep)",
        "todo = min(len(r.tokens) - r.computed, f.budget - keep)",
    ),
    _in(
        "scheduler",
        "rows are not shared out among stages",
        "        if not self._staged:\n            return rows\n",
        "        if rows:\n            return rows\n",
    ),
    _in(
        "scheduler",
        "the first stage gets no tokens",
        "        if self._staged:\n            self._feed(f, r)\n",
        "",
    ),
    # slots, preemption
    _in("scheduler", "slots are not released", "        self._release.append(r.slot)\n", ""),
    _in("scheduler", "a victim has work in this plan", "if v.granted != f.id), r)", "if v is not r), r)"),
    _in(
        "scheduler",
        "back in the queue with results due",
        "        if r.flights == 0:\n            self._queue.push(r)\n",
        "        self._queue.push(r)\n",
    ),
    _in(
        "scheduler",
        "an aborted row keeps its pages",
        "        if r.slot >= 0:\n            self._drop(r)\n",
        "        if r.slot >= 0 and finish != Finish.ABORT:\n            self._drop(r)\n",
    ),
    # what an admission says
    _in("flight", "seeds follow the slot", "seed=r.request.seed", "seed=r.slot"),
    _in("flight", "output counts as prompt after preemption", "prompt=r.prompt,", "prompt=len(r.tokens),"),
    _in(
        "flight",
        "every table is taken for the last one",
        'same = work != b"" and work == _advanced(last)',
        "same = len(work) == len(last) > 0",
    ),
    # forks, copies
    _in(
        "scheduler",
        "a child starts behind the prompt's end",
        "self._groups.fork(r, parent, r.prompt - 1)",
        "self._groups.fork(r, parent, r.prompt)",
    ),
    _in(
        "scheduler",
        "partial pages are not copied",
        'f.copies += [self._copies.begin("cow", *copy) for copy in copies or ()]',
        "f.copies += []",
    ),
    _in(
        "groups",
        "forked blocks take no reference",
        "                self.pool.hold(table.ids[b])\n",
        "                pass\n",
    ),
    _in(
        "copies",
        "a copy does not hold its pages",
        "        self._pool.hold(dst)\n",
        "        self._pool.hold(src)\n",
    ),
    _in(
        "scheduler",
        "children do not wait for the prompt",
        "parent.slot >= 0 and parent.settled >= parent.prompt:",
        "parent.slot >= 0:",
    ),
    # masks, scores
    Mutant(
        "masks ignore the drafts before them",
        LOOP,
        "paths.append((*paths[parent + 1], drafts[node]))",
        "paths.append(())",
    ),
    Mutant(
        "masks are sent before the result they follow from",
        LOOP,
        "plan = self._flying[0][0]",
        "plan = self._flying[-1][0]",
    ),
    Mutant(
        "matchers do not follow the output",
        LOOP,
        "                if delta.tokens:\n",
        "                if len(delta.tokens) > 1:\n",
    ),
    _in(
        "scheduler",
        "a position is never scored",
        "max(r.computed, r.scored - 1)",
        "max(r.computed, r.scored)",
    ),
    _in(
        "scheduler",
        "logits of one position too few",
        "f, r, 1 + drafts, drafts, drafts + 1, drafts + 1)",
        "f, r, 1 + drafts, drafts, max(1, drafts), drafts + 1)",
    ),
    # tokens that are certain
    _in(
        "scheduler",
        "certain tokens in flight are drafted again",
        "self._ahead(r.request)[r.pending : r.pending + most]",
        "self._ahead(r.request)[:most]",
    ),
    _in(
        "scheduler",
        "certain tokens run beyond the end",
        "most = min(r.limit - length - 1, f.budget - 1, f.spare)",
        "most = min(f.budget - 1, f.spare)",
    ),
    _in(
        "scheduler",
        "certain tokens take more samples than there are",
        "most = min(r.limit - length - 1, f.budget - 1, f.spare)",
        "most = min(r.limit - length - 1, f.budget - 1)",
    ),
    _in(
        "scheduler",
        "waiting rows are forgotten when samples are shared out",
        "self.limits.max_rows - len(self._running) - len(self._queue)",
        "self.limits.max_rows - len(self._running)",
    ),
    _in(
        "flight",
        "certain tokens are fed at the wrong place",
        "self.feed.append((r.slot, end - drafts, path))",
        "self.feed.append((r.slot, end, path))",
    ),
    Mutant(
        "the mask behind certain tokens is that before them",
        LOOP,
        "yield masks.fill(row.request, row.path)",
        "yield masks.fill(row.request, ())",
    ),
)
