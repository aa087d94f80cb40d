"""All batches of a server: made, looked up, cancelled, taken up again after a restart."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec

from octavo.core.errors import EngineError, NotFound, UserError
from octavo.server.batches.dispatch import Dispatch
from octavo.server.batches.life import Life, Means
from octavo.server.batches.types import FINAL, BatchCounts, BatchObject, BatchRequest, Record
from octavo.server.files.folder import write_whole
from octavo.server.files.store import FileStore, new_id

_log = logging.getLogger(__name__)
_OPEN = 64  # unfinished batches of one tenant; each holds two open files
_KEPT = 1000  # batches of one tenant; the oldest finished ones make room
_WINDOW = 86400
_DAY = 86400


class Batches:
    """`rows` is how many requests of all batches may be in the engine at once."""

    def __init__(self, store: FileStore, dispatch: Dispatch, rows: int, most_line: int) -> None:
        self.store = store
        self.dispatch = dispatch
        self._rows = rows
        self._most_line = most_line
        self._records: dict[str, Record] = {}
        self._lives: dict[str, Life] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._means: Means | None = None
        self._writing = asyncio.Lock()

    # -- life -----------------------------------------------------------------------------

    def start(self) -> None:
        """Takes up what an earlier server left; nothing is made where there was nothing."""
        try:
            self._look()
        except EngineError as error:
            _log.warning("files and batches are not available: %s", error)

    async def close(self) -> None:
        """Stops the work; the next server goes on with it."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.store.close()

    @property
    def running(self) -> int:
        return len(self._tasks)

    async def idle(self) -> None:
        """Returns when no batch is unfinished."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))
            await asyncio.sleep(0)

    # -- requests -------------------------------------------------------------------------

    async def create(self, tenant: str, asked: BatchRequest) -> BatchObject:
        """UserError when there can be no such batch."""
        self._open()
        self._check(tenant, asked)
        now = self.store.now()
        expires = asked.output_expires_after
        record = Record(
            tenant=tenant,
            order=self.store.clock(),
            outputs=(new_id("file"), new_id("file")),
            seconds=expires.seconds if expires else None,
            batch=BatchObject(
                id=new_id("batch").replace("-", "_"),
                endpoint=asked.endpoint,
                input_file_id=asked.input_file_id,
                created_at=now,
                expires_at=now + _WINDOW,
                request_counts=BatchCounts(),
                metadata=asked.metadata,
            ),
        )
        self.store.hold(asked.input_file_id)
        try:
            await self._save(record)
        except BaseException:
            self.store.release(asked.input_file_id)
            raise
        self._records[record.batch.id] = record
        self._begin(record)
        return record.batch

    def find(self, tenant: str, id: str) -> BatchObject:
        return self._find(tenant, id).batch

    def of(self, tenant: str) -> list[BatchObject]:
        """A tenant's batches, newest first."""
        self._look()
        return [one.batch for one in reversed(self._records.values()) if one.tenant == tenant]

    async def cancel(self, tenant: str, id: str) -> BatchObject:
        """UserError for a batch that is past it."""
        record = self._find(tenant, id)
        batch = record.batch
        if batch.status in ("validating", "in_progress"):
            if id not in self._lives:  # it waits for a working engine
                self.store.hold(batch.input_file_id)
                self._begin(record)
            await self._lives[id].cancel()
        elif batch.status not in ("cancelling", "cancelled"):
            hint = "only a batch that is validating or in_progress can be cancelled"
            raise UserError(f"the batch is {batch.status}", hint=hint, field="batch_id")
        return batch

    # -- inside ---------------------------------------------------------------------------

    def _find(self, tenant: str, id: str) -> Record:
        self._look()
        found = self._records.get(id)
        if found is None or found.tenant != tenant:
            raise NotFound(
                f"there is no batch {id[:80]!r}", hint="GET /v1/batches lists yours", field="batch_id"
            )
        return found

    def _check(self, tenant: str, asked: BatchRequest) -> None:
        if asked.endpoint not in self.dispatch.endpoints:
            raise UserError(
                f"endpoint {asked.endpoint[:80]!r} takes no batches",
                hint=f"use one of {', '.join(self.dispatch.endpoints)}",
                field="endpoint",
            )
        try:
            purpose = self.store.find(tenant, asked.input_file_id).file.purpose
        except NotFound as error:
            raise UserError(error.message, hint=error.hint, field="input_file_id") from None
        if purpose != "batch":
            hint = "upload the requests with purpose 'batch'"
            raise UserError(f"the file's purpose is {purpose!r}", hint=hint, field="input_file_id")
        mine = [one for one in self._records.values() if one.tenant == tenant]
        if sum(one.batch.status not in FINAL for one in mine) >= _OPEN:
            hint = "wait for one to finish, or cancel one"
            raise UserError(f"you have {_OPEN} unfinished batches, the limit", hint=hint)
        done = [one for one in mine if one.batch.status in FINAL]
        for old in done[: max(0, len(mine) - _KEPT + 1)]:
            self._forget(old)

    def _look(self) -> None:
        if self.store.look():
            self._open()

    def _open(self) -> None:
        """Once: takes the folder, reads the records and begins where they end."""
        if self._means is not None:
            return
        self.store.open()
        self._means = Means(
            self.store,
            self.dispatch,
            asyncio.Semaphore(self._rows),
            asyncio.Lock(),
            self._most_line,
            self._save,
        )
        folder = self.store.path / "batches"
        found = [msgspec.json.decode(path.read_bytes(), type=Record) for path in folder.glob("*.json")]
        for record in sorted(found, key=lambda one: one.order):
            self._records[record.batch.id] = record
            if record.batch.status not in FINAL:
                if self.dispatch.owner(record.tenant) is None:
                    _log.warning("%s waits: the key that made it is withdrawn", record.batch.id)
                    continue
                self.store.hold(record.batch.input_file_id)
                self._begin(record)
            elif record.batch.created_at + self.store.config.file_days * _DAY < self.store.now():
                self._forget(record)

    def _begin(self, record: Record) -> None:
        assert self._means is not None
        life, id = Life(record, self._means), record.batch.id
        self._lives[id] = life
        self._tasks[id] = asyncio.ensure_future(life.run())
        self._tasks[id].add_done_callback(lambda task: self._ended(record))

    def _ended(self, record: Record) -> None:
        self.store.release(record.batch.input_file_id)
        del self._tasks[record.batch.id], self._lives[record.batch.id]

    def _forget(self, record: Record) -> None:
        del self._records[record.batch.id]
        self._path(record).unlink(missing_ok=True)

    async def _save(self, record: Record) -> None:
        data = msgspec.json.encode(record)
        async with self._writing:
            await asyncio.to_thread(write_whole, self._path(record), data)

    def _path(self, record: Record) -> Path:
        return self.store.path / "batches" / f"{record.batch.id}.json"
