"""The library's functions, carried out by another process (serve.cpp) with the memory they touch.

Stands in for what ctypes loads: the tests do not know the difference.
"""

from __future__ import annotations

import ctypes
import struct
import subprocess
import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from octavo.ops.cpu import lib
from octavo.ops.cpu.lib import Library, OpStruct, StepStruct, WeightStruct
from tests.cpu.native.remote import regions
from tests.cpu.native.remote.regions import Region, floats, whole

SOURCE = Path(__file__).with_name("serve.cpp")
_NAME = 32  # bytes of a call's name


def compile_server(compiler: str, folder: Path, flags: Sequence[str] = ()) -> Path:
    out = folder / "serve"
    headers = Path(lib.__file__).parent
    command = [compiler, "-std=c++17", "-O1", "-Wall", "-Wextra", "-pthread", *flags, f"-I{headers}"]
    subprocess.run([*command, str(SOURCE), "-ldl", "-o", str(out)], check=True)
    return out


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
        self._one = (
            threading.Lock()
        )  # weights are packed from several threads, and a call carries all of a weight

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

    def oct_level_name(self, level: int) -> bytes | None:
        name = (ctypes.c_char * _NAME)()
        known = self._call("level_name", level, ctypes.addressof(name), regions=[whole(name, writes=True)])
        return name.value if known else None

    def oct_engine_create(self, threads: int, level: int, pins: Any) -> int:
        assert pins is None, "the other process pins nothing"
        return self._call("engine_create", threads, level, 0)

    def oct_engine_destroy(self, engine: int) -> None:
        if self._process.poll() is None and not self._process.stdin.closed:  # type: ignore[union-attr]
            self._call("engine_destroy", engine)

    def oct_packed_bytes(self, format: int, n: int, k: int) -> int:
        return self._call("packed_bytes", format, n, k)

    def oct_pack(
        self, engine: int, w: WeightStruct, src: int, scales: int | None, first: int, rows: int
    ) -> int:
        touched = [*self._weight(w, writes=True)]
        if first >= 0 and rows > 0 and first + rows <= w.n:
            touched.append(Region(src, rows * lib.source_bytes(lib.FORMATS[w.format], w.k)))
            touched += [Region(scales, rows * 4)] if scales else []
        else:  # refused: nothing is touched
            src, scales = 0, 0
        return self._call("pack", engine, ctypes.addressof(w), src, scales or 0, first, rows, regions=touched)

    def oct_row(self, w: WeightStruct, index: int, out: int) -> int:
        touched = [*self._weight(w), Region(out, w.k * 4, True)]
        return self._call("row", ctypes.addressof(w), index, out, regions=touched)

    def oct_run(self, engine: int, ops: Any, count: int, widths: Any, step: StepStruct) -> int:
        ops = getattr(ops, "_obj", ops)  # one op comes by reference
        listed = [ops] if isinstance(ops, OpStruct) else list(ops)
        touched = [whole(ops), whole(widths), whole(step)]
        for op in listed:
            touched += self._operands(op, widths)
        touched += regions.program(listed, widths, step)
        where = (ctypes.addressof(ops), count, ctypes.addressof(widths), ctypes.addressof(step))
        return self._call("run", engine, *where, regions=touched)

    def oct_begin(self, slots: Any, work: int, rows: int, begun: Any) -> int:
        slots, begun = slots._obj, begun._obj
        where = (ctypes.addressof(slots), work, rows, ctypes.addressof(begun))
        return self._call("begin", *where, regions=[*regions.begin(slots, work, rows, begun)])

    def oct_end(self, slots: Any, begun: Any, rows: int, samples: int, ended: Any) -> None:
        slots, begun, ended = slots._obj, begun._obj, ended._obj
        where = (ctypes.addressof(slots), ctypes.addressof(begun), rows, samples, ctypes.addressof(ended))
        self._call("end", *where, regions=[*regions.end(slots, begun, rows, samples, ended)])

    def oct_sample(self, engine: int, rows: Any) -> int:
        rows = rows._obj
        return self._call("sample", engine, ctypes.addressof(rows), regions=[*regions.sampling(rows)])

    def _weight(self, w: WeightStruct, writes: bool = False) -> Iterator[Region]:
        yield whole(w)
        yield Region(w.data, self.oct_packed_bytes(w.format, w.n, w.k), writes)

    def _operands(self, op: OpStruct, widths: Any) -> Iterator[Region]:
        k = widths[op.input]
        if op.weight:
            yield from self._weight(op.weight.contents)
            k = op.weight.contents.k
            yield from floats(op.bias, op.weight.contents.n)
        yield from floats(op.norm, k)
        yield from floats(op.rope, op.rope_dim // 2)
        yield from floats(op.q_norm, op.head_dim)
        yield from floats(op.k_norm, op.head_dim)

    def _call(self, name: str, *args: int, regions: Sequence[Region] = ()) -> int:
        unique = {r.at: r for r in sorted(regions, key=lambda r: (r.writes, r.nbytes)) if r.at}.values()
        with self._one:
            self._send(name, args, unique)
            result, harmed = struct.unpack("<qq", self._get(16, name))
            for region in unique:
                if region.writes:
                    ctypes.memmove(region.at, self._get(region.nbytes, name), region.nbytes)
        assert not harmed, f"{name} wrote before one of its buffers"
        return int(result)

    def _send(self, name: str, args: Sequence[int], regions: Collection[Region]) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(struct.pack(f"<{_NAME}sq6q", name.encode(), len(regions), *args, *(0,) * (6 - len(args))))
        for region in regions:
            stdin.write(struct.pack("<Qqq", *region))
            stdin.write(ctypes.string_at(region.at, region.nbytes))
        stdin.flush()

    def _get(self, nbytes: int, name: str) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(nbytes)
        assert len(data) == nbytes, f"the process ended in {name} with {self._process.wait()}"
        return data
