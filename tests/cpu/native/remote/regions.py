"""Which memory each function of the library may touch.

Mirrors abi.h in the sizes of what its pointers point to.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from octavo.ops.cpu import lib
from octavo.ops.cpu.lib import GroupStruct, OpStruct, StepStruct
from octavo.ops.cpu.sample import SampleStruct
from octavo.ops.cpu.slots import BegunStruct, EndedStruct, PagesStruct, SlotsStruct

_DTYPES = {kind: dtype for dtype, kind in lib.CACHE_TYPES.items()}
_BY_ROW = ("slot", "start", "count", "drafts", "logits", "first", "sampled")
_BY_TOKEN = ("row_slot", "row_position", "row_known", "logits_at", "ids", "positions")


class Region(NamedTuple):
    """Memory of this process that a call reads, or writes too. Of no bytes: nobody may touch it."""

    at: int
    nbytes: int
    writes: bool = False


def whole(value: Any, writes: bool = False) -> Region:
    """A struct or an array."""
    return Region(ctypes.addressof(value), ctypes.sizeof(value), writes)


def floats(at: int | None, count: int) -> list[Region]:
    return [Region(at, 4 * count)] if at else []


def _fields(struct: Any, sizes: dict[str, int], written: Sequence[str] = ()) -> Iterator[Region]:
    """What a struct's pointers point to, in bytes by name."""
    for name, nbytes in sizes.items():
        if at := getattr(struct, name):
            yield Region(at, max(0, nbytes), name in written)


# ---- a program ------------------------------------------------------------------------------


def program(ops: Sequence[OpStruct], widths: Any, step: StepStruct) -> Iterator[Region]:
    """Of a run, but for the operands of its ops."""
    tokens, rows = step.tokens, step.rows
    for b, at in enumerate(step.buffers):
        if at:
            yield Region(at, 4 * tokens * widths[b], True)
    yield from _fields(step, {"ids": 8 * tokens, "positions": 8 * tokens, "row_start": 4 * (rows + 1)})
    if step.seconds:
        yield Region(ctypes.addressof(step.seconds.contents), 8 * len(ops), True)
    attention = [op for op in ops if op.code == lib.ATTENTION]
    if attention:
        yield from _caches(attention, step)


def _caches(attention: Sequence[OpStruct], step: StepStruct) -> Iterator[Region]:
    groups = 1 + max(op.group for op in attention)
    yield Region(ctypes.addressof(step.groups.contents), ctypes.sizeof(GroupStruct) * groups)
    pages = []
    for group in step.groups[:groups]:
        cells = step.rows * group.table_stride
        table = (ctypes.c_int32 * cells).from_address(group.tables)
        pages.append(1 + max(table))
        yield Region(group.lengths, 4 * step.rows)
        yield Region(group.tables, 4 * cells)
    yield Region(ctypes.addressof(step.caches.contents), 8 * (1 + max(op.layer for op in attention)))
    for op in attention:
        yield Region(step.caches[op.layer], pages[op.group] * _page_bytes(op), True)


def _page_bytes(op: OpStruct) -> int:
    """Keys and values of a page. In eight bits a position of a head has a float scale besides."""
    dtype = _DTYPES[op.cache_type]
    width = op.head_dim * dtype.itemsize + (4 if dtype == torch.int8 else 0)
    return 2 * op.kv_heads * op.page * width


# ---- both ends of a step, and the draw --------------------------------------------------------


def sampling(s: SampleStruct) -> Iterator[Region]:
    rows = max(0, s.rows)
    slots = 1 + max((ctypes.c_int64 * rows).from_address(s.slots), default=-1)
    yield whole(s)
    sizes = {"logits": 4 * rows * s.vocab, "slots": 8 * rows, "positions": 8 * rows, "tokens": 8 * rows}
    sizes |= {"temperature": 4 * slots, "gap": 4 * slots}
    sizes |= dict.fromkeys(("top_k", "top_p", "seed"), 8 * slots)
    yield from _fields(s, sizes, ("tokens",))


def begin(s: SlotsStruct, work: int, rows: int, begun: BegunStruct) -> Iterator[Region]:
    yield Region(work, 8 * 5 * rows)
    yield from _slots(s, ())
    yield from _begun(begun, rows, writes=True)
    for pages in _pages(s):
        yield from _fields(
            pages,
            {"table": 4 * s.slots * pages.stride, "rows": 4 * rows * pages.stride, "places": 8 * begun.room},
            ("rows", "places"),
        )


def end(s: SlotsStruct, begun: BegunStruct, rows: int, samples: int, ended: EndedStruct) -> Iterator[Region]:
    yield Region(samples, 8 * begun.scored)
    yield from _slots(s, ("tokens", "known", "computed", "done"))
    yield from _begun(begun, rows, writes=False)
    yield whole(ended)
    sizes = {"tokens": 4 * rows * begun.width, "counts": 4 * rows, "finished": rows}
    yield from _fields(ended, sizes, tuple(sizes))


def _pages(s: SlotsStruct) -> list[PagesStruct]:
    return [s.pages[g] for g in range(s.groups)]


def _slots(s: SlotsStruct, written: Sequence[str]) -> Iterator[Region]:
    yield whole(s)
    sizes = {"tokens": 4 * s.slots * s.width, "samples": s.slots, "done": s.slots}
    sizes |= dict.fromkeys(("known", "computed", "earliest", "last"), 8 * s.slots)
    sizes |= {"eos": 8 * s.slots * s.eos_width, "stop": 8 * s.slots * s.stop_width}
    yield from _fields(s, sizes, written)
    if s.pages:
        yield Region(ctypes.addressof(s.pages.contents), ctypes.sizeof(PagesStruct) * s.groups)


def _begun(begun: BegunStruct, rows: int, writes: bool) -> Iterator[Region]:
    yield whole(begun, writes)
    sizes = dict.fromkeys(_BY_ROW, 8 * rows) | dict.fromkeys(_BY_TOKEN, 8 * begun.room)
    sizes |= {"row_start": 4 * (rows + 1), "lengths": 4 * rows}
    yield from _fields(begun, sizes, tuple(sizes) if writes else ())
