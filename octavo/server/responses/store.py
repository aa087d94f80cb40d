"""What was said, for clients that go on with it: bounded by size and age, apart for every API key.

Keeps bytes and plain items; knows no wire type. The oldest are dropped first.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from octavo.core.errors import NotFound, Overloaded, UserError

Items = tuple[Mapping[str, Any], ...]
_OVERHEAD = 2048  # bytes that a record takes besides what it holds
_RETRY = 5.0  # seconds


class Told(NamedTuple):
    """One event of a stream, as it was sent."""

    number: int
    data: bytes


class Shelf:
    """What one tenant has here."""

    def __init__(self) -> None:
        self.records: OrderedDict[str, Record] = OrderedDict()  # the oldest first
        self.used = 0  # bytes

    def put(self, record: Record) -> None:
        self.take(record)
        self.records[record.id], record.shelf = record, self
        self.used += record.size

    def take(self, record: Record) -> None:
        if self.records.pop(record.id, None) is not None:
            self.used -= record.size
            record.shelf = None


class Record:
    """One response. `items` are all of its conversation's before its own answer; `task` runs while it is
    being made in the background, `events` are kept when that may be streamed later. `size` is in bytes;
    what conversations share is counted for each of them."""

    def __init__(self, id: str, tenant: str, items: Items, born: float, *, background: bool = False) -> None:
        self.id = id
        self.tenant = tenant
        self.items = items
        self.born = born
        self.background = background
        self.reply = b""
        self.output: Items = ()
        self.events: list[Told] | None = None
        self.done = not background
        self.task: asyncio.Task[None] | None = None
        self.shelf: Shelf | None = None
        self.size = _OVERHEAD + len(msgspec.json.encode(items))
        self._news = asyncio.Event()

    def say(self, reply: bytes, output: Sequence[Mapping[str, Any]] = (), *, done: bool) -> None:
        """The response as it stands now."""
        self._grow(2 * (len(reply) - len(self.reply)))  # once as bytes, once as items
        self.reply, self.output, self.done = reply, tuple(output), done
        self._wake()

    def tell(self, number: int, data: bytes) -> None:
        if self.events is not None:
            self.events.append(Told(number, data))
            self._grow(len(data) + 64)
        self._wake()

    async def news(self) -> None:
        """Returns when there is something new."""
        await self._news.wait()

    def _grow(self, size: int) -> None:
        self.size += size
        if self.shelf is not None:
            self.shelf.used += size

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


class Store:
    """Records by tenant and id. `most` bytes for each tenant, none older than `seconds`."""

    def __init__(self, most: int, seconds: float, clock: Callable[[], float]) -> None:
        self.most = most
        self._seconds = seconds
        self._clock = clock
        self._shelves: dict[str, Shelf] = {}

    @property
    def now(self) -> float:
        return self._clock()

    def add(self, record: Record) -> None:
        """Keeps it, if it is not larger than all the room there is. Overloaded when the room is taken by
        responses that are still being made."""
        shelf = self._shelves.setdefault(record.tenant, Shelf())
        if not record.done and shelf.used > self.most:
            raise Overloaded(
                "the store is full of responses that are still being made",
                hint="try again later, or start the server with a larger --response-store-bytes",
                retry_after=_RETRY,
            )
        shelf.put(record)
        self.tidy()

    def get(self, tenant: str, id: str, field: str = "response_id") -> Record:
        """NotFound for what never was, was deleted, or had to go."""
        self.tidy()
        shelf = self._shelves.get(tenant)
        record = shelf.records.get(id) if shelf is not None else None
        if record is None:
            raise NotFound(
                f"there is no response {id[:128]!r}",
                hint=f"responses are kept for {self._seconds:g} s, in {self.most} bytes a key",
                field=field,
            )
        return record

    def remove(self, record: Record) -> None:
        if record.shelf is not None:
            record.shelf.take(record)

    def tidy(self) -> None:
        """Drops what is too old or too much; never what is still being made."""
        oldest = self._clock() - self._seconds
        for tenant, shelf in list(self._shelves.items()):
            for record in _surplus(shelf, self.most, oldest):
                shelf.take(record)
            if not shelf.records:
                del self._shelves[tenant]

    def used(self, tenant: str) -> int:
        """Bytes."""
        shelf = self._shelves.get(tenant)
        return 0 if shelf is None else shelf.used

    def must_keep(self, field: str) -> None:
        """UserError when nothing is kept here."""
        if not self.most:
            raise UserError(
                f"{field} needs stored responses, and this server keeps none",
                hint="start it with a larger --response-store-bytes",
                field=field,
            )

    def close(self) -> None:
        """Ends what is still being made."""
        for shelf in self._shelves.values():
            for record in shelf.records.values():
                if record.task is not None:
                    record.task.cancel()
        self._shelves.clear()


def _surplus(shelf: Shelf, most: int, oldest: float) -> list[Record]:
    """From the oldest on, until all is well."""
    gone, used = [], shelf.used
    for record in shelf.records.values():
        if record.born >= oldest and used <= most:
            break
        if record.done:
            gone.append(record)
            used -= record.size
    return gone
