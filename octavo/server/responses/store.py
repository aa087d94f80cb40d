"""What was said, for clients that go on with it: bounded by size and age, apart for every API key.

Keeps bytes and plain items; knows no wire type. The oldest are dropped first.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from octavo.core.errors import NotFound, UserError

Items = tuple[Mapping[str, Any], ...]
_OVERHEAD = 1024  # bytes that a record takes besides what it holds


class Told(NamedTuple):
    """One event of a stream, as it was sent."""

    number: int
    data: bytes


class Record:
    """One response. `items` are all of its conversation's before its own answer; `task` runs while it is
    being made in the background, `events` are kept when that may be streamed later."""

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
        self._news = asyncio.Event()
        self._base = _OVERHEAD + len(msgspec.json.encode(items))
        self._told = 0

    @property
    def size(self) -> int:
        """In bytes. What conversations share is counted for each of them."""
        return self._base + len(self.reply) * 2 + self._told

    def say(self, reply: bytes, output: Sequence[Mapping[str, Any]] = (), *, done: bool) -> None:
        """The response as it stands now."""
        self.reply, self.output, self.done = reply, tuple(output), done
        self.wake()

    def tell(self, number: int, data: bytes) -> None:
        if self.events is not None:
            self.events.append(Told(number, data))
            self._told += len(data) + 64
        self.wake()

    def wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def news(self) -> None:
        """Returns when there is something new."""
        await self._news.wait()


class Store:
    """Records by tenant and id. `most` bytes for each tenant, none older than `seconds`."""

    def __init__(self, most: int, seconds: float, clock: Callable[[], float]) -> None:
        self.most = most
        self._seconds = seconds
        self._clock = clock
        self._shelves: dict[str, OrderedDict[str, Record]] = {}

    @property
    def now(self) -> float:
        return self._clock()

    def add(self, record: Record) -> None:
        """Keeps it, if it is not larger than all the room there is."""
        self._shelves.setdefault(record.tenant, OrderedDict())[record.id] = record
        self.tidy(record.tenant)

    def get(self, tenant: str, id: str, field: str = "response_id") -> Record:
        """NotFound for what never was, was deleted, or had to go."""
        self.tidy(tenant)
        shelf = self._shelves.get(tenant)
        record = shelf.get(id) if shelf is not None else None
        if record is None:
            raise NotFound(
                f"there is no response {id[:128]!r}",
                hint=f"responses are kept for {self._seconds:g} s, in {self.most} bytes a key",
                field=field,
            )
        return record

    def remove(self, record: Record) -> None:
        self._shelves.get(record.tenant, OrderedDict()).pop(record.id, None)

    def tidy(self, tenant: str) -> None:
        """Drops what is too old or too much; never what is still being made."""
        shelf = self._shelves.get(tenant)
        if shelf is None:
            return
        oldest = self._clock() - self._seconds
        for record in [one for one in shelf.values() if one.done and one.born < oldest]:
            del shelf[record.id]
        used = sum(record.size for record in shelf.values())
        for record in [one for one in shelf.values() if one.done]:
            if used <= self.most:
                break
            used -= record.size
            del shelf[record.id]
        if not shelf:
            del self._shelves[tenant]

    def used(self, tenant: str) -> int:
        """Bytes."""
        return sum(record.size for record in self._shelves.get(tenant, {}).values())

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
            for record in shelf.values():
                if record.task is not None:
                    record.task.cancel()
        self._shelves.clear()
