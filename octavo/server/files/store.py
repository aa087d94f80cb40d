"""The files of all tenants: an index in memory, one record and one data file each on disk.

Names on disk are ids made here; nothing a client sends is ever part of a path. A file exists
once its record does: data without one is what a crash left, and goes at the next start.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from octavo.config.files import FilesConfig
from octavo.core.errors import NotFound, Overloaded, UserError
from octavo.server.files.folder import Folder, write_whole
from octavo.server.files.quota import Quota
from octavo.server.files.types import MOST_LISTED, FileObject
from octavo.server.openai.errors import Problem

_UPLOADS = 16  # of one tenant at once; each holds a descriptor and grows without an announced size
_DAY = 86400
_PARTS = ("files", "partial", "batches")

Purpose = Literal["batch", "batch_output"]


class Stored(msgspec.Struct, kw_only=True):
    """A file's record: whose it is, its place in lists, and what clients see."""

    tenant: str
    order: int
    file: FileObject


class FileStore:
    """Opened by the first call that needs it, so that a server nobody sends files to makes no folder."""

    def __init__(self, path: Path, config: FilesConfig, clock: Callable[[], int] = time.time_ns) -> None:
        self.path = path
        self.config = config
        self.quota = Quota(config.max_files_bytes)
        self.clock = clock
        self.uploads: Counter[str] = Counter()
        self._folder: Folder | None = None
        self._index: dict[str, Stored] = {}
        self._held: Counter[str] = Counter()

    # -- life -----------------------------------------------------------------------------

    def open(self) -> None:
        """Takes the folder and reads its records. May be called again."""
        if self._folder is not None:
            return
        self._folder = Folder.open(self.path, *_PARTS)
        for left in (self.path / "partial").iterdir():
            left.unlink()
        self._read()

    def look(self) -> bool:
        """Opens a folder that exists; whether there is one."""
        if self.path.exists():
            self.open()
        return self._folder is not None

    def close(self) -> None:
        if self._folder is not None:
            self._folder.close()
            self._folder = None
            self._index.clear()

    def now(self) -> int:
        return self.clock() // 1_000_000_000

    # -- reading --------------------------------------------------------------------------

    def find(self, tenant: str, id: str) -> Stored:
        """A tenant's file. NotFound for everything else, other tenants' files included."""
        self.look()
        found = self._index.get(id)
        if found is None or found.tenant != tenant or self._expired(found):
            raise NotFound(f"there is no file {id[:80]!r}", hint="GET /v1/files lists yours", field="file_id")
        return found

    def of(self, tenant: str) -> list[Stored]:
        """A tenant's files, oldest first."""
        self.look()
        self.sweep()
        return [one for one in self._index.values() if one.tenant == tenant]

    def data(self, id: str) -> Path:
        """Where the bytes of a file of ours are."""
        return self.path / "files" / f"{id}.data"

    # -- writing --------------------------------------------------------------------------

    def begin(self, tenant: str) -> Upload:
        """Room for a file that is about to come in. Overloaded when too many are doing so."""
        self.open()
        self.sweep()
        if self.uploads[tenant] >= _UPLOADS:
            message = f"{_UPLOADS} uploads of yours are in progress"
            raise Overloaded(message, hint="try again later", retry_after=2)
        if len(self.of(tenant)) >= MOST_LISTED:
            hint = "delete files that are done with"
            raise UserError(f"you have {MOST_LISTED} files, the limit", hint=hint, field="file")
        return Upload(self, tenant)

    async def keep(
        self,
        id: str,
        tenant: str,
        data: Path,
        *,
        name: str,
        purpose: Purpose,
        seconds: int | None = None,
    ) -> Stored:
        """Takes finished data over as the file `id`; its size is counted already."""
        now, size = self.now(), data.stat().st_size
        life = int(self.config.file_days * _DAY) if seconds is None else seconds
        stored = Stored(
            tenant=tenant,
            order=self.clock(),
            file=FileObject(
                id=id, bytes=size, created_at=now, expires_at=now + life, filename=name, purpose=purpose
            ),
        )
        await asyncio.to_thread(self._commit, data, stored)
        if (old := self._index.pop(id, None)) is not None:  # written before a crash, now written again
            self.quota.count(tenant, -old.file.bytes)
        self._index[id] = stored
        return stored

    def delete(self, tenant: str, id: str) -> None:
        """UserError while a batch still needs it."""
        self.find(tenant, id)
        if self._held[id]:
            hint = "cancel the batch, or wait for its end"
            raise UserError(f"file {id} belongs to a batch that is not finished", hint=hint, field="file_id")
        self._remove(id)

    def hold(self, id: str) -> None:
        """Keeps a file from being deleted until `release`."""
        self._held[id] += 1

    def release(self, id: str) -> None:
        self._held[id] -= 1

    def sweep(self) -> None:
        """Removes what is too old."""
        for id, stored in list(self._index.items()):
            if self._expired(stored):
                self._remove(id)

    # -- inside ---------------------------------------------------------------------------

    def _read(self) -> None:
        folder = self.path / "files"
        records = [_load(path) for path in folder.glob("*.json")]
        for stored in sorted((one for one in records if one is not None), key=lambda one: one.order):
            if self.data(stored.file.id).is_file():
                self._index[stored.file.id] = stored
                self.quota.count(stored.tenant, stored.file.bytes)
        for path in folder.iterdir():
            if path.stem not in self._index:
                path.unlink()

    def _commit(self, data: Path, stored: Stored) -> None:
        data.replace(self.data(stored.file.id))
        write_whole(self._record(stored.file.id), msgspec.json.encode(stored))

    def _expired(self, stored: Stored) -> bool:
        ends = stored.file.expires_at
        return ends is not None and ends <= self.now() and not self._held[stored.file.id]

    def _remove(self, id: str) -> None:
        stored = self._index.pop(id)
        self._record(id).unlink(missing_ok=True)
        self.data(id).unlink(missing_ok=True)
        self.quota.count(stored.tenant, -stored.file.bytes)

    def _record(self, id: str) -> Path:
        return self.path / "files" / f"{id}.json"


class Upload:
    """A file on its way in. `keep` or `discard` ends it; `discard` may follow `keep`."""

    def __init__(self, store: FileStore, tenant: str) -> None:
        self.id = new_id("file")
        self.size = 0
        self._store = store
        self._tenant = tenant
        self._path = store.path / "partial" / self.id
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file: BinaryIO | None = os.fdopen(handle, "wb")
        store.uploads[tenant] += 1

    async def write(self, data: bytes) -> None:
        """Problem (413) at the first byte too many."""
        assert self._file is not None
        most = self._store.config.max_file_bytes
        if self.size + len(data) > most:
            hint = "split it, or start the server with a larger --max-file-bytes"
            raise Problem(413, f"the file is larger than {most} bytes", hint=hint, field="file")
        self._store.quota.take(self._tenant, len(data))
        self.size += len(data)
        await asyncio.to_thread(self._file.write, data)

    async def keep(self, name: str, purpose: Purpose, seconds: int | None) -> Stored:
        assert self._file is not None
        await asyncio.to_thread(_sync, self._file)
        stored = await self._store.keep(
            self.id, self._tenant, self._path, name=name, purpose=purpose, seconds=seconds
        )
        self._close()
        return stored

    def discard(self) -> None:
        """Unless it was kept."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._store.quota.count(self._tenant, -self.size)
            self._close()

    def _close(self) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None
        self._store.uploads[self._tenant] -= 1


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def new_id(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(16)}"


def _load(path: Path) -> Stored | None:
    """None for a record that is none: what belongs to it is removed."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Stored)
    except (msgspec.MsgspecError, OSError):
        return None
