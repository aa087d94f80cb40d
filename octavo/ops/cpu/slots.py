"""abi.h's structs for the two ends of a step. Knows their layout, not what it means."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_int64, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.ops.cpu.lib import Library, NativeError
from octavo.ops.cpu.sample import address


class PagesStruct(Structure):
    _fields_ = (
        ("page", c_int64), ("stride", c_int64), ("table", c_void_p), ("rows", c_void_p), ("places", c_void_p),
    )  # fmt: skip


class SlotsStruct(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("slots", "width", "groups")),
        *((name, c_void_p) for name in (
            "tokens", "known", "computed", "samples", "done", "earliest", "last", "eos", "stop",
        )),
        ("eos_width", c_int64), ("stop_width", c_int64), ("pages", POINTER(PagesStruct)),
    )  # fmt: skip


class BegunStruct(Structure):
    _fields_ = (
        *((name, c_int64) for name in (
            "room", "tokens", "live", "samples", "scored", "width", "widest", "longest",
        )),
        *((name, c_void_p) for name in (
            "slot", "start", "count", "drafts", "logits", "first", "sampled",
            "row_slot", "row_position", "row_known", "logits_at", "ids", "positions", "row_start", "lengths",
        )),
    )  # fmt: skip


class EndedStruct(Structure):
    _fields_ = (("tokens", c_void_p), ("counts", c_void_p), ("finished", c_void_p))


def begin(library: Library, slots: Any, work: NDArray[np.int64], begun: Any) -> None:
    """Writes a step's inputs; `slots` and `begun` are references to their structs."""
    if library.calls.oct_begin(slots, address(work), len(work), begun):
        raise NativeError("the plan contradicts the slots")


def end(library: Library, slots: Any, begun: Any, rows: int, samples: NDArray[np.int64], ended: Any) -> None:
    """Writes what a step brought, into the slots and into `ended`."""
    library.calls.oct_end(slots, begun, rows, address(samples), ended)
