"""Compiling beside the loop: a few threads, a bounded cache, one compilation for equal grammars.

Knows no requests. The backend is made by the first compilation: its vocabulary is not free.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from octavo.core.request import GrammarSpec
from octavo.grammar.backend import GrammarBackend, Matcher

_THREADS = 2  # one slow grammar does not hold up the others


class Compiler:
    """Keeps the last `keep` grammars that were asked for. Called from one thread."""

    def __init__(self, make_backend: Callable[[], GrammarBackend], keep: int) -> None:
        self._make_backend = make_backend
        self._keep = keep
        self._known: OrderedDict[GrammarSpec, Future[Matcher]] = OrderedDict()
        self._pool: ThreadPoolExecutor | None = None
        self._backend: Future[GrammarBackend]
        self.compiled = 0
        self.found = 0

    def start(self, spec: GrammarSpec) -> Future[Matcher]:
        """A matcher at its beginning, to be copied; not to be used itself."""
        if (known := self._known.get(spec)) is not None:
            self._known.move_to_end(spec)
            self.found += 1
            return known
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="octavo-grammar")
            self._backend = self._pool.submit(self._make_backend)
        backend = self._backend
        future = self._pool.submit(lambda: backend.result().compile(spec))
        self._known[spec] = future
        if len(self._known) > self._keep:
            self._known.popitem(last=False)
        self.compiled += 1
        return future

    def close(self) -> None:
        """What has not begun is given up."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
