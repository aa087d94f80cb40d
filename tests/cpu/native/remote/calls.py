"""The library's functions, carried out by another process (serve.cpp) with the memory they touch.

Stands in for what ctypes loads: the tests do not know the difference. Mirrors abi.h once more, in
the sizes of what its pointers point to.
"""

from __future__ import annotations

import ctypes
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from octavo.ops.cpu import lib
from octavo.ops.cpu.lib import GroupStruct, Library, OpStruct, StepStruct, WeightStruct

SOURCE = Path(__file__).with_name("serve.cpp")
_NAMES = ("abi", "best_level", "has_level", "create", "destroy", "packed_bytes", "pack", "row", "run")
_CACHE_BYTES = {kind: dtype.itemsize for dtype, kind in lib.CACHE_TYPES.items()}


def compile_server(compiler: str, folder: Path, flags: Sequence[str] = ()) -> Path:
    out = folder / "serve"
    headers = Path(lib.__file__).parent
    command = [compiler, "-std=c++17", "-O1", "-Wall", "-Wextra", "-pthread", *flags, f"-I{headers}"]
    subprocess.run([*command, str(SOURCE), "-ldl", "-o", str(out)], check=True)
    return out


class Region(NamedTuple):
    """Memory of this process that a call reads, or writes too."""

    at: int
    nbytes: int
    writes: bool = False


class RemoteLibrary(Library):
    """As Library. `command` starts the server, its last word is the library's path."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        super().__init__(Path(command[-1]))

    def open(self, path: Path) -> Any:
        return Calls(self._command)

    def close(self) -> None:
        self.calls.close()


class Calls:
    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def oct_abi(self) -> int:
        return self._call("abi")

    def oct_best_level(self) -> int:
        return self._call("best_level")

    def oct_has_level(self, level: int) -> int:
        return self._call("has_level", level)

    def oct_engine_create(self, threads: int, level: int, pins: Any) -> int:
        assert pins is None, "the other process pins nothing"
        return self._call("create", threads, level, 0)

    def oct_engine_destroy(self, engine: int) -> None:
        if self._process.poll() is None and not self._process.stdin.closed:  # type: ignore[union-attr]
            self._call("destroy", engine)

    def oct_packed_bytes(self, format: int, n: int, k: int) -> int:
        return self._call("packed_bytes", format, n, k)

    def oct_pack(
        self, engine: int, w: WeightStruct, src: int, scales: int | None, first: int, rows: int
    ) -> int:
        regions = [*self._weight(w, writes=True)]
        if first >= 0 and rows > 0 and first + rows <= w.n:
            regions.append(Region(src, rows * lib.source_bytes(lib.FORMATS[w.format], w.k)))
            regions += [Region(scales, rows * 4)] if scales else []
        else:  # refused: nothing is touched
            src, scales = 0, 0
        return self._call("pack", engine, ctypes.addressof(w), src, scales or 0, first, rows, regions=regions)

    def oct_row(self, w: WeightStruct, index: int, out: int) -> int:
        regions = [*self._weight(w), Region(out, w.k * 4, True)]
        return self._call("row", ctypes.addressof(w), index, out, regions=regions)

    def oct_run(self, engine: int, ops: Any, count: int, widths: Any, step: StepStruct) -> int:
        ops = getattr(ops, "_obj", ops)  # one op comes by reference
        listed = [ops] if isinstance(ops, OpStruct) else list(ops)
        regions = [_of(ops), _of(widths), _of(step)]
        for op in listed:
            regions += self._operands(op, widths)
        regions += _inputs(listed, widths, step)
        where = (ctypes.addressof(ops), count, ctypes.addressof(widths), ctypes.addressof(step))
        return self._call("run", engine, *where, regions=regions)

    def _weight(self, w: WeightStruct, writes: bool = False) -> Iterator[Region]:
        yield _of(w)
        yield Region(w.data, self.oct_packed_bytes(w.format, w.n, w.k), writes)

    def _operands(self, op: OpStruct, widths: Any) -> Iterator[Region]:
        k = widths[op.input]
        if op.weight:
            yield from self._weight(op.weight.contents)
            k = op.weight.contents.k
            yield from _floats(op.bias, op.weight.contents.n)
        yield from _floats(op.norm, k)
        yield from _floats(op.rope, op.rope_dim // 2)
        yield from _floats(op.q_norm, op.head_dim)
        yield from _floats(op.k_norm, op.head_dim)

    def _call(self, name: str, *args: int, regions: Sequence[Region] = ()) -> int:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        unique = list(
            {r.at: r for r in sorted(regions, key=lambda r: (r.writes, r.nbytes)) if r.nbytes}.values()
        )
        stdin.write(struct.pack("<ii6q", _NAMES.index(name), len(unique), *args, *(0,) * (6 - len(args))))
        for region in unique:
            stdin.write(struct.pack("<Qqq", region.at, region.nbytes, region.writes))
            stdin.write(ctypes.string_at(region.at, region.nbytes))
        stdin.flush()
        result, harmed = struct.unpack("<qq", self._get(16, name))
        for region in unique:
            if region.writes:
                ctypes.memmove(region.at, self._get(region.nbytes, name), region.nbytes)
        assert not harmed, f"{name} wrote before one of its buffers"
        return int(result)

    def _get(self, nbytes: int, name: str) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(nbytes)
        assert len(data) == nbytes, f"the process ended in {name} with {self._process.wait()}"
        return data


def _of(value: Any) -> Region:
    return Region(ctypes.addressof(value), ctypes.sizeof(value))


def _floats(at: int | None, count: int) -> list[Region]:
    return [Region(at, 4 * count)] if at else []


def _inputs(ops: Sequence[OpStruct], widths: Any, step: StepStruct) -> Iterator[Region]:
    tokens, rows = step.tokens, step.rows
    for b, at in enumerate(step.buffers):
        if at:
            yield Region(at, 4 * tokens * widths[b], True)
    for at, nbytes in (
        (step.ids, 8 * tokens),
        (step.positions, 8 * tokens),
        (step.row_start, 4 * (rows + 1)),
    ):
        if at:
            yield Region(at, nbytes)
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
        page = 2 * op.kv_heads * op.page * op.head_dim * _CACHE_BYTES[op.cache_type]
        yield Region(step.caches[op.layer], pages[op.group] * page, True)
