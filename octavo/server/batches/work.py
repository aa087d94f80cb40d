"""Answers what the journal has no answer to: so many lines at once, each result written once.

The same for a batch of the server and for `octavo run-batch`. Stopping it loses only answers
that were not complete; the next run begins where the journal ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator

from octavo.core.errors import UserError
from octavo.server.batches.journal import Journal
from octavo.server.batches.lines import Line, Result

Ask = Callable[[Line], Awaitable[Result]]
Told = Callable[[Result], None]
Pace = Callable[[], Awaitable[None]]


class Work:
    """`slots` is shared by everything that runs at once, and fair between them; `told` hears of each
    result after it was written; `pace` returns when the next line may begin, and holds no slot before."""

    def __init__(
        self, journal: Journal, ask: Ask, slots: asyncio.Semaphore, told: Told, pace: Pace | None = None
    ) -> None:
        self._journal = journal
        self._ask = ask
        self._slots = slots
        self._told = told
        self._pace = pace
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None

    async def run(self, lines: Iterable[Line]) -> None:
        """Returns when every line is answered. Raises what `told` raised, or Fault when the output
        cannot be written."""
        missing = unanswered(lines, self._journal)
        try:
            while (line := await asyncio.to_thread(next, missing, None)) is not None:
                if self._pace is not None:
                    await self._pace()
                await self._slots.acquire()
                task = asyncio.ensure_future(self._one(line))
                self._tasks.add(task)
                task.add_done_callback(self._ended)
                if self._error is not None:
                    break
            while self._tasks and self._error is None:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._error is not None:
                raise self._error
        finally:
            left = list(self._tasks)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _one(self, line: Line) -> None:
        result = await self._ask(line)
        self._journal.add(result)
        self._told(result)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A failed line gives its slot back too, so a loop that waits for one soon hears of it."""
        self._tasks.discard(task)
        self._slots.release()
        if not task.cancelled():
            self._error = self._error or task.exception()


def unanswered(lines: Iterable[Line], journal: Journal) -> Iterator[Line]:
    """Lines without a result; checks on the way that the results belong to these lines."""
    for line in lines:
        place = journal.done.get(line.number)
        if place is None:
            yield line
        elif place.id != line.id:
            raise UserError(
                f"line {line.number} of the input is not the one that {journal.path} answers",
                hint="choose another output, or let --overwrite replace it",
                field="output",
            )
