"""The paged caches: their layout from the layers' specs, their memory, and page copies.

One pool of page ids serves all groups: the i-th layer of every group lives in the same tensor,
because a page belongs to one group at a time. Knows no scheduler.

A CPU's cache appears in memory when it is written first. Growth under traffic would look like a
leak, so a quiet thread asks the kernel for every page soon after the start; where the kernel
cannot be asked, memory stops growing once every block was used.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from octavo.core.errors import Unsupported
from octavo.core.facts import CacheGroup
from octavo.core.messages import Copy
from octavo.nn.attention import cache_groups
from octavo.nn.protocols import AttentionBackend, CacheSpec
from octavo.ops.cpu.lib import huge_pages
from octavo.sampling.device.upload import upload

_ALIGN = 4096  # bytes; a host page
_POPULATE = 23  # Linux: MADV_POPULATE_WRITE (5.14)
_PIECE = 16 << 20  # bytes asked for at once


class Place(NamedTuple):
    """A layer's cache: number `tensor` of the pool, seen as `page` elements in this shape."""

    tensor: int
    page: tuple[int, ...]


class Layout(NamedTuple):
    """How caches look before any memory is there."""

    groups: tuple[CacheGroup, ...]
    places: dict[str, Place]  # by layer name
    tensors: tuple[int, ...]  # elements in a page of each tensor of the pool
    page_bytes: int


def lay_out(
    specs: Sequence[CacheSpec], backend: AttentionBackend, page_size: int, dtype: torch.dtype
) -> Layout:
    """Groups and tensors for the layers of a model."""
    places: dict[str, Place] = {}
    counts: dict[int, int] = {}
    tensors: dict[tuple[int, int], int] = {}  # (ordinal within the group, elements) -> index
    for spec in specs:
        ordinal = counts[spec.group] = counts.get(spec.group, -1) + 1
        page = backend.layout(spec, 1, page_size)[1:]
        key = (ordinal, math.prod(page))
        places[spec.name] = Place(tensors.setdefault(key, len(tensors)), page)
    sizes = tuple(size for _, size in tensors)
    return Layout(cache_groups(specs, page_size), places, sizes, sum(sizes) * dtype.itemsize)


class Caches:
    """The pool's memory. `tensors` maps layer names to [pages, *page]."""

    def __init__(self, layout: Layout, pages: int, dtype: torch.dtype, device: torch.device) -> None:
        self._layout = layout
        self._memory: _HostMemory | None = None
        sizes = [pages * size for size in layout.tensors]
        pool = (
            self._host(sizes, dtype)
            if device.type == "cpu"
            else [torch.zeros(size, dtype=dtype, device=device) for size in sizes]
        )
        self._pool = [flat.view(pages, -1) for flat in pool]
        self.tensors = {
            name: self._pool[place.tensor].view(pages, *place.page) for name, place in layout.places.items()
        }

    def _host(self, sizes: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
        steps = [-(-size * dtype.itemsize // _ALIGN) * _ALIGN for size in sizes]
        self._memory = _HostMemory(sum(steps))
        offsets = [sum(steps[:i]) for i in range(len(steps))]
        return [
            torch.frombuffer(self._memory.map, dtype=dtype, count=size, offset=offset)
            for size, offset in zip(sizes, offsets, strict=True)
        ]

    def populate(self) -> None:
        """Starts to bring a CPU's cache into memory, without waiting for it."""
        if self._memory is not None:
            threading.Thread(target=self._memory.populate, name="octavo-cache", daemon=True).start()

    def close(self) -> None:
        if self._memory is not None:
            self._memory.closed = True

    def copy(self, copies: Iterable[Copy]) -> None:
        """Carries out page copies in order. Only copies within the device are known here."""
        todo = list(copies)
        if moved := [c for c in todo if c.kind != "cow"]:
            raise Unsupported(
                f"this device has nowhere to move pages {moved[0].kind}", hint="leave KV offload off"
            )
        while todo:
            now = _independent(todo)
            try:
                self._copy_at_once(now)
            except torch.OutOfMemoryError:
                self._copy_one_by_one(now)
            todo = todo[len(now) :]

    def _copy_at_once(self, copies: Sequence[Copy]) -> None:
        pages = np.array([(c.src, c.dst) for c in copies], np.int64).T
        src, dst = upload(pages, self._pool[0].device)
        for tensor in self._pool:
            tensor.index_copy_(0, dst, tensor.index_select(0, src))

    def _copy_one_by_one(self, copies: Sequence[Copy]) -> None:
        """Takes no memory; pages that are there already are copied again, which changes nothing."""
        for tensor in self._pool:
            for c in copies:
                tensor[c.dst].copy_(tensor[c.src])


class _HostMemory:
    """Zeroed memory in huge pages where the kernel has them. `populate` runs beside writers."""

    def __init__(self, nbytes: int) -> None:
        self.map = huge_pages(nbytes)
        self.closed = False

    def populate(self) -> None:
        """Asks for every page, piece by piece, at the lowest priority. Contents stay as they are."""
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
            ask = ctypes.CDLL(None).madvise  # unlike mmap.madvise it does not hold the interpreter
            base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
            for at in range(0, len(self.map), _PIECE):
                length = min(_PIECE, len(self.map) - at)
                if self.closed or ask(ctypes.c_void_p(base + at), ctypes.c_size_t(length), _POPULATE) != 0:
                    return


def _independent(copies: Sequence[Copy]) -> Sequence[Copy]:
    """The longest beginning in which no page is read or written after it was written."""
    written: set[int] = set()
    for i, copy in enumerate(copies):
        if copy.src in written or copy.dst in written:
            return copies[:i]
        written.add(copy.dst)
    return copies
