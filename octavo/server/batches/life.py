"""One batch from validating to its end. Owns the record's status; every change is on disk first.

validating -> in_progress -> finalizing -> completed | expired
           -> failed         cancelling -> cancelled
A server that is stopped or killed leaves the record and the journal; the next one takes the
batch up where they end. Answers of a batch that ends early are kept; for each request without
one the error file says why.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from octavo.core.errors import EngineDead, EngineError
from octavo.server.batches.dispatch import Dispatch
from octavo.server.batches.journal import Journal, write_lines
from octavo.server.batches.lines import Line, Result, encode, failed, read_lines
from octavo.server.batches.types import (
    BatchCounts,
    BatchProblem,
    BatchProblems,
    BatchUsage,
    InputDetails,
    OutputDetails,
    Record,
    Status,
)
from octavo.server.batches.validate import validate
from octavo.server.batches.work import Work
from octavo.server.files.store import FileStore

_log = logging.getLogger(__name__)
_WHY = {
    "expired": ("batch_expired", "This request was not answered before the completion window ended."),
    "cancelled": ("batch_cancelled", "The batch was cancelled before this request was answered."),
    "failed": ("batch_failed", "The batch failed before this request was answered."),
}


class Means(NamedTuple):
    """What every batch of a server works with."""

    store: FileStore
    dispatch: Dispatch
    slots: asyncio.Semaphore
    reading: asyncio.Lock  # one input is validated at a time
    most_line: int
    save: Callable[[Record], Awaitable[None]]


class Life:
    def __init__(self, record: Record, means: Means) -> None:
        self.record = record
        self.batch = record.batch
        self._means = means
        self._stop = asyncio.Event()
        self._input = means.store.data(self.batch.input_file_id)
        self._path = means.store.path / "batches" / f"{self.batch.id}.jsonl"
        self._counted = 0  # bytes of the journal that the quota knows of

    async def run(self) -> None:
        """Goes on from the status that the record has."""
        try:
            await self._run()
        except EngineDead as error:  # not the batch's fault: the next server goes on with it
            _log.error("%s waits for a working engine: %s", self.batch.id, error)
        except Exception as error:
            _log.error("%s failed", self.batch.id, exc_info=error)
            self._path.unlink(missing_ok=True)
            await self._fail([_told(error)])

    async def cancel(self) -> None:
        self.batch.cancelling_at = self._means.store.now()
        await self._become("cancelling")
        self._stop.set()

    # -- inside ---------------------------------------------------------------------------

    async def _run(self) -> None:
        if self.batch.status == "validating" and not await self._validate():
            return
        journal = await asyncio.to_thread(Journal.open, self._path)
        try:
            self._note(journal)
            error = await self._answer(journal) if self.batch.status == "in_progress" else None
            await self._finish(journal, error)
        finally:
            journal.close()
            self._charge(-self._counted)
        self._path.unlink(missing_ok=True)

    async def _validate(self) -> bool:
        """Whether there is work to do."""
        means, most = self._means, self._means.store.config.max_batch_requests
        async with means.reading:
            found = await asyncio.to_thread(validate, self._input, self.batch.endpoint, means.most_line, most)
        self.batch.request_counts = BatchCounts(total=found.total)
        if self.batch.status == "cancelling":
            return True
        if found.problems:
            await self._fail(found.problems)
            return False
        self.batch.in_progress_at = means.store.now()
        await self._become("in_progress")
        return True

    async def _answer(self, journal: Journal) -> Exception | None:
        """Works until all is answered, the batch is cancelled or its time is over. Returns what broke it."""

        async def ask(line: Line) -> Result:
            return await self._means.dispatch.ask(line, self.record.tenant)

        def told(result: Result) -> None:
            self._note(journal)
            self._means.store.quota.take(self.record.tenant, 0)

        async def pace() -> None:
            await self._means.dispatch.pace(self.record.tenant)

        with self._input.open("rb") as file:
            lines = read_lines(file, self._means.most_line)
            work = asyncio.ensure_future(Work(journal, ask, self._means.slots, told, pace).run(lines))
            stop = asyncio.ensure_future(self._stop.wait())
            left = max(0, self.batch.expires_at - self._means.store.now())
            try:
                await asyncio.wait((work, stop), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                work.cancel()
                stop.cancel()
                ended, _ = await asyncio.gather(work, stop, return_exceptions=True)
        if isinstance(ended, EngineDead):
            raise ended
        return ended if isinstance(ended, Exception) else None

    async def _finish(self, journal: Journal, error: Exception | None) -> None:
        """Files, counts and the last status. May be repeated after a crash."""
        status = self._outcome(journal, error)
        if status == "completed" or status == "expired":
            self.batch.finalizing_at = self._means.store.now()
            await self._become("finalizing")
        await asyncio.to_thread(journal.sync)
        good, bad = await asyncio.to_thread(self._write, journal, status)
        self.batch.output_file_id = await self._keep(good, self.record.outputs[0], "output")
        self.batch.error_file_id = await self._keep(bad, self.record.outputs[1], "error")
        counts = self.batch.request_counts
        if status in ("completed", "expired"):
            counts.failed = counts.total - counts.completed
        if error is not None:
            self.batch.errors = BatchProblems(data=[_told(error)])
        setattr(self.batch, f"{status}_at", self._means.store.now())
        await self._become(status)
        _log.info("%s is %s: %d of %d answered", self.batch.id, status, counts.completed, counts.total)

    def _outcome(self, journal: Journal, error: Exception | None) -> Status:
        if self.batch.status == "cancelling":
            return "cancelled"
        if error is not None:
            return "failed"
        return "completed" if len(journal.done) == self.batch.request_counts.total else "expired"

    def _write(self, journal: Journal, status: Status) -> tuple[Path, Path]:
        """Answers into one file, everything else into another, both in the order of the input."""
        paths = (self._path.with_suffix(".good"), self._path.with_suffix(".bad"))
        write_lines(paths[0], journal.ordered(good=True))
        write_lines(paths[1], self._failures(journal, status))
        return paths

    def _failures(self, journal: Journal, status: Status) -> Iterator[bytes]:
        """Results that are no answers, and a line for each request that has no result."""
        told = journal.ordered(good=False)
        if len(journal.done) == self.batch.request_counts.total:
            yield from told
            return
        code, message = _WHY[status]
        with self._input.open("rb") as file:
            for line in read_lines(file, self._means.most_line):
                place = journal.done.get(line.number)
                if place is None:
                    yield encode(failed(line, code, message))
                elif not place.good:
                    yield next(told)

    async def _keep(self, path: Path, id: str, kind: str) -> str | None:
        """The id of the file; None when it would be empty."""
        size = path.stat().st_size
        if not size:
            path.unlink()
            return None
        self._charge(size)
        await self._means.store.keep(
            id,
            self.record.tenant,
            path,
            name=f"{self.batch.id}_{kind}.jsonl",
            purpose="batch_output",
            seconds=self.record.seconds,
        )
        return id

    def _note(self, journal: Journal) -> None:
        """What the journal says, where clients and the quota see it."""
        counts, tokens = self.batch.request_counts, journal.tokens
        counts.completed = journal.completed
        counts.failed = len(journal.done) - journal.completed
        self.batch.usage = BatchUsage(
            input_tokens=tokens.input,
            input_tokens_details=InputDetails(tokens.cached),
            output_tokens=tokens.output,
            output_tokens_details=OutputDetails(tokens.reasoning),
            total_tokens=tokens.input + tokens.output,
        )
        self._charge(journal.size - self._counted)
        self._counted = journal.size

    def _charge(self, size: int) -> None:
        self._means.store.quota.count(self.record.tenant, size)

    async def _fail(self, problems: list[BatchProblem]) -> None:
        self.batch.errors = BatchProblems(data=problems)
        self.batch.failed_at = self._means.store.now()
        await self._become("failed")

    async def _become(self, status: Status) -> None:
        self.batch.status = status
        await self._means.save(self.record)


def _told(error: Exception) -> BatchProblem:
    """As much of an error as its owner may know."""
    if isinstance(error, EngineError):
        return BatchProblem(code="batch_failed", message=str(error))
    return BatchProblem(code="internal_error", message="internal error")
