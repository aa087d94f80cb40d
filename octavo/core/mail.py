"""Letters between front and core. One tagged union each way, typed by schema."""

from __future__ import annotations

from typing import Any

import msgspec

from octavo.core.events import CoreStats
from octavo.core.facts import Ready
from octavo.core.request import Delta, EngineRequest


class Add(msgspec.Struct, frozen=True, tag="add"):
    requests: tuple[EngineRequest, ...]


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    ids: tuple[str, ...]


class Call(msgspec.Struct, frozen=True, tag="call"):
    """Rare control: reset_prefix_cache, stats, profile. Drains the loop first where it must."""

    call_id: int
    name: str
    args: dict[str, Any] = {}


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Finish nothing more; say goodbye and exit."""


class Started(msgspec.Struct, frozen=True, tag="started"):
    ready: Ready


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """Start-up news: stage name and done share in [0, 1]."""

    stage: str
    share: float


class News(msgspec.Struct, frozen=True, tag="news"):
    """Deltas of a step; also the heartbeat. `busy` says whether more steps will follow."""

    deltas: tuple[Delta, ...]
    stats: CoreStats
    busy: bool


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A call failed, or the core could not start or died on purpose. `kind`: a class name of core.errors."""

    kind: str
    message: str
    hint: str = ""
    field: str | None = None


class Reply(msgspec.Struct, frozen=True, tag="reply"):
    call_id: int
    value: Any = None
    error: Failed | None = None


ToCore = Add | Abort | Call | Stop
ToFront = Started | Progress | News | Reply | Failed
