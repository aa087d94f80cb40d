"""Grammars: the matchers of all requests that have a grammar.

To the scheduler a guest (a request waits aside until its grammar is compiled), to the loop the
source of masks. Owns matchers from the request's arrival to its end, so preemption does not touch
them. What goes wrong with one grammar ends that request alone, with a reason.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

from octavo.core.errors import UserError
from octavo.core.request import EngineRequest
from octavo.grammar.backend import Matcher
from octavo.grammar.compile import Compiler

_log = logging.getLogger(__name__)


class Constrained:
    """One request's place in its grammar. After an end token only end tokens are left."""

    def __init__(self, matcher: Matcher, eos: Iterable[int], words: int) -> None:
        self._matcher = matcher
        self._eos = frozenset(eos)
        self._ends = _bitmap(self._eos, words)
        self._ended = 0  # end tokens taken

    @property
    def error(self) -> str | None:
        return self._matcher.error

    def accept(self, token: int) -> bool:
        if token in self._eos:
            fits = self._ended > 0 or self._matcher.may_end
            self._ended += fits
            return fits
        return not self._ended and self._matcher.accept(token)

    def ahead(self) -> Sequence[int]:
        """The tokens that must follow. No end token is among them: it may be held back by other settings."""
        if self._ended or not (tokens := self._matcher.forced()) or self._matcher.may_end:
            return ()
        return tokens[: next((at for at, token in enumerate(tokens) if token in self._eos), len(tokens))]

    def rollback(self, count: int) -> None:
        ends = min(count, self._ended)
        self._ended -= ends
        self._matcher.rollback(count - ends)

    def fill(self) -> bytes:
        if self._ended:
            return self._ends
        bits = self._matcher.fill()
        if not self._matcher.may_end:
            return bits
        return (int.from_bytes(bits, "little") | int.from_bytes(self._ends, "little")).to_bytes(
            len(bits), "little"
        )


class Grammars:
    """`size` is the number of rows of the output head, `eos` what ends an output of this model."""

    def __init__(
        self,
        compiler: Compiler,
        size: int,
        eos: tuple[int, ...],
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._compiler = compiler
        self._words = -(-size // 32)
        self._any = b"\xff" * (4 * self._words)
        self._eos = eos
        self._timeout = timeout
        self._clock = clock
        self._compiling: dict[str, tuple[Future[Matcher], float]] = {}  # with its last moment
        self._open: dict[str, Constrained] = {}
        self._failed: dict[str, str] = {}
        self.filled = 0

    def open(self, request: EngineRequest) -> None:
        """A request came in. Its grammar is compiled beside the loop."""
        if request.grammar is not None:
            future = self._compiler.start(request.grammar)
            self._compiling[request.id] = (future, self._clock() + self._timeout)

    def failures(self) -> dict[str, str]:
        """Requests that cannot go on, and why; told once."""
        now = self._clock()
        for id, (future, deadline) in list(self._compiling.items()):
            if now > deadline and not future.done():
                self._fail(id, f"the grammar took longer than {self._timeout:g} s to compile")
        failed, self._failed = self._failed, {}
        return failed

    def wait(self, seconds: float) -> None:
        """Until some grammar is compiled; at once when none is being compiled."""
        if self._compiling:
            wait([future for future, _ in self._compiling.values()], seconds, FIRST_COMPLETED)

    # ---- guest of the scheduler -------------------------------------------------------------

    def ready(self, request: EngineRequest) -> bool:
        if request.id not in self._compiling:
            return request.grammar is None or request.id in self._open
        future, _ = self._compiling[request.id]
        return future.done() and self._begin(request, future)

    def admit(self, request: EngineRequest) -> None:
        """Nothing to charge."""

    def leave(self, request: EngineRequest) -> None:
        """A preempted request keeps its matcher; `close` is the end."""

    def ahead(self, request: EngineRequest) -> Sequence[int]:
        """What must follow the output that was told so far."""
        row = self._open.get(request.id)
        return () if row is None else row.ahead()

    # ---- source of masks --------------------------------------------------------------------

    def accept(self, request: str, tokens: tuple[int, ...]) -> None:
        if (row := self._open.get(request)) is not None and not all(map(row.accept, tokens)):
            self._fail(request, row.error or "the grammar and the other sampling settings leave no token")

    def fill(self, request: str, path: tuple[int, ...]) -> bytes | None:
        row = self._open.get(request)
        if row is None:  # it has failed and ends with the next step
            return self._any
        taken = 0
        while taken < len(path) and row.accept(path[taken]):
            taken += 1
        bits = row.fill() if taken == len(path) else None
        row.rollback(taken)
        if row.error is not None:
            self._fail(request, row.error)
            return self._any
        self.filled += 1
        return bits

    def only(self, token: int) -> bytes:
        return _bitmap((token,), self._words)

    def close(self, request: str) -> None:
        self._compiling.pop(request, None)
        self._open.pop(request, None)
        self._failed.pop(request, None)

    # ---- inside -----------------------------------------------------------------------------

    def _begin(self, request: EngineRequest, future: Future[Matcher]) -> bool:
        """The matcher is there: brings it to the end of the output that was sent already."""
        try:
            matcher = future.result().copy()
        except UserError as error:
            return self._fail(request.id, str(error))
        except Exception as error:
            _log.exception("a grammar could not be compiled")
            return self._fail(request.id, f"internal error: {type(error).__name__}")
        del self._compiling[request.id]
        eos = request.sampling.eos if request.sampling is not None else ()
        row = Constrained(matcher, {*self._eos, *eos}, self._words)
        if not all(map(row.accept, request.output)):
            return self._fail(request.id, "the output so far does not fit the grammar")
        self._open[request.id] = row
        return True

    def _fail(self, id: str, why: str) -> bool:
        self._compiling.pop(id, None)
        self._open.pop(id, None)
        self._failed[id] = f"structured output failed: {why}"
        return False


def _bitmap(ids: Iterable[int], words: int) -> bytes:
    bits = 0
    for id in ids:
        bits |= 1 << id
    return bits.to_bytes(words * 4, "little")
