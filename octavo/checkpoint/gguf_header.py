"""Reads the header of a GGUF file: metadata and where each tensor lies. Never its weights.

Files are untrusted: every count, length, dimension and offset is checked against the bytes
that are there before anything is allocated, in Python's unbounded integers. Torch-free, so
that the front process can read a vocabulary from it.
"""

from __future__ import annotations

import mmap
from array import array
from math import prod
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple

from octavo.core.errors import ArtefactError

_MAX_HEADER = 64 << 20  # bytes; the largest vocabularies take less than 20 MiB
_MAX_DIMS = 4
_MAX_KEY = 1 << 16
_U32, _U64 = Struct("<I"), Struct("<Q")
_STRING, _ARRAY = 8, 9
REMEDY = "download the file again"

# metadata type -> struct code; 7 is bool, stored as one byte
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}


class BlockType(NamedTuple):
    """`size` elements are stored in `nbytes` bytes."""

    name: str
    size: int
    nbytes: int


# tensor type -> its blocks; those without a dequantiser are listed so that errors can name them
BLOCK_TYPES = {
    0: BlockType("F32", 1, 4),
    1: BlockType("F16", 1, 2),
    2: BlockType("Q4_0", 32, 18),
    3: BlockType("Q4_1", 32, 20),
    6: BlockType("Q5_0", 32, 22),
    7: BlockType("Q5_1", 32, 24),
    8: BlockType("Q8_0", 32, 34),
    9: BlockType("Q8_1", 32, 40),
    10: BlockType("Q2_K", 256, 84),
    11: BlockType("Q3_K", 256, 110),
    12: BlockType("Q4_K", 256, 144),
    13: BlockType("Q5_K", 256, 176),
    14: BlockType("Q6_K", 256, 210),
    15: BlockType("Q8_K", 256, 292),
    16: BlockType("IQ2_XXS", 256, 66),
    17: BlockType("IQ2_XS", 256, 74),
    18: BlockType("IQ3_XXS", 256, 98),
    19: BlockType("IQ1_S", 256, 50),
    20: BlockType("IQ4_NL", 32, 18),
    21: BlockType("IQ3_S", 256, 110),
    22: BlockType("IQ2_S", 256, 82),
    23: BlockType("IQ4_XS", 256, 136),
    24: BlockType("I8", 1, 1),
    25: BlockType("I16", 1, 2),
    26: BlockType("I32", 1, 4),
    27: BlockType("I64", 1, 8),
    28: BlockType("F64", 1, 8),
    29: BlockType("IQ1_M", 256, 56),
    30: BlockType("BF16", 1, 2),
    34: BlockType("TQ1_0", 256, 54),
    35: BlockType("TQ2_0", 256, 66),
    39: BlockType("MXFP4", 32, 17),
}


class GGUFTensor(NamedTuple):
    """`shape` is in torch's order (rows first); `offset` counts from the file's start."""

    type: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class GGUFHeader(NamedTuple):
    """Numeric arrays of `metadata` are array.array, string arrays lists."""

    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]
    source: str


def read_header(path: str | Path) -> GGUFHeader:
    """Parses the header. ArtefactError for a file that is not a sound little-endian GGUF 2 or 3."""
    source = str(path)
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            if size < 24:
                raise ArtefactError(f"{source} is too short for a GGUF file ({size} bytes)", hint=REMEDY)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data, size, source).header()
    except OSError as error:
        raise ArtefactError(
            f"{source} cannot be read: {error.strerror}", hint="check that it exists and its permissions"
        ) from error


class _Reader:
    """A cursor over the mapped file; every step checks what is left."""

    def __init__(self, data: mmap.mmap, size: int, source: str) -> None:
        self.data = data
        self.size = size
        self.limit = min(size, _MAX_HEADER)
        self.at = 0
        self.source = source

    def header(self) -> GGUFHeader:
        if self.take(4) != b"GGUF":
            raise self.bad("does not start with GGUF")
        version = self.u32()
        if version not in (2, 3):
            raise ArtefactError(
                f"{self.source}: GGUF version {version} is not supported",
                hint="versions 2 and 3, little-endian, are: fetch or convert the model anew",
            )
        tensor_count, entry_count = self.u64(), self.u64()
        self.room(tensor_count, 24, "tensors")
        self.room(entry_count, 13, "metadata entries")
        metadata = self.metadata(entry_count)
        tensors = [self.tensor() for _ in range(tensor_count)]
        return GGUFHeader(metadata, self.place(tensors, metadata), self.source)

    def metadata(self, count: int) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for _ in range(count):
            key = self.string(_MAX_KEY)
            if key in entries:
                raise self.bad(f"holds the key {key!r:.60} twice")
            entries[key] = self.value(self.u32())
        return entries

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        code = _SCALARS.get(kind)
        if code is None:
            raise self.bad(f"holds metadata of unknown type {kind}")
        form = Struct("<" + code)
        (value,) = form.unpack(self.take(form.size))
        return bool(value) if kind == 7 else value

    def array(self) -> Any:
        kind, count = self.u32(), self.u64()
        if kind == _STRING:
            return self.strings(count)
        code = _SCALARS.get(kind)
        if code is None:
            raise self.bad(f"holds an array of unsupported type {kind}")
        width = Struct("<" + code).size
        self.room(count, width, "array items")
        items = array(code)
        items.frombytes(self.take(count * width))
        return items

    def strings(self, count: int) -> list[str]:
        """The hot loop: vocabularies hold 50 to 250 thousand strings."""
        self.room(count, 8, "strings")
        data, at, limit, length = self.data, self.at, self.limit, _U64.unpack_from
        found: list[str] = []
        for _ in range(count):
            if at + 8 > limit:
                raise self.short()
            start = at + 8
            at = start + length(data, at)[0]
            if at > limit:
                raise self.short()
            found.append(data[start:at].decode("utf-8", "replace"))
        self.at = at
        return found

    def tensor(self) -> tuple[str, BlockType, tuple[int, ...], int]:
        name = self.string(_MAX_KEY)
        dims = self.u32()
        if not 1 <= dims <= _MAX_DIMS:
            raise self.bad(f"tensor {name!r:.60} has {dims} dimensions")
        shape = tuple(self.u64() for _ in range(dims))[::-1]
        kind = self.u32()
        block = BLOCK_TYPES.get(kind)
        if block is None:
            raise self.bad(f"tensor {name!r:.60} has unknown type {kind}")
        if 0 in shape or shape[-1] % block.size:
            raise self.bad(f"tensor {name!r:.60} of type {block.name} has shape {shape}")
        return name, block, shape, self.u64()

    def place(
        self, tensors: list[tuple[str, BlockType, tuple[int, ...], int]], metadata: dict[str, Any]
    ) -> dict[str, GGUFTensor]:
        """Absolute offsets; every tensor lies inside the file and overlaps no other."""
        align = metadata.get("general.alignment", 32)
        if (
            isinstance(align, bool)
            or not isinstance(align, int)
            or not 8 <= align <= 1 << 20
            or align & (align - 1)
        ):
            raise self.bad(f"has alignment {align!r:.40}")
        base = -(-self.at // align) * align
        placed: dict[str, GGUFTensor] = {}
        for name, block, shape, offset in tensors:
            nbytes = prod(shape) // block.size * block.nbytes
            if name in placed:
                raise self.bad(f"holds tensor {name!r:.60} twice")
            if offset % align or base + offset + nbytes > self.size:
                raise ArtefactError(
                    f"{self.source}: tensor {name!r:.60} lies outside the file "
                    f"(ends at {base + offset + nbytes}, the file has {self.size} bytes)",
                    hint=REMEDY,
                )
            placed[name] = GGUFTensor(block.name, shape, base + offset, nbytes)
        self.no_overlap(placed)
        return placed

    def no_overlap(self, placed: dict[str, GGUFTensor]) -> None:
        end, last = 0, ""
        for name, tensor in sorted(placed.items(), key=lambda item: item[1].offset):
            if tensor.offset < end:
                raise self.bad(f"tensors {last!r:.60} and {name!r:.60} overlap")
            end, last = tensor.offset + tensor.nbytes, name

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > self.limit:
            raise self.short()
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(8))[0])

    def string(self, longest: int = _MAX_HEADER) -> str:
        length = self.u64()
        if length > longest:
            raise self.bad(f"holds a string of {length} bytes where {longest} are allowed")
        return self.take(length).decode("utf-8", "replace")

    def room(self, count: int, width: int, what: str) -> None:
        """Refuses a count whose smallest encoding would not fit."""
        if count * width > self.limit - self.at:
            raise self.bad(f"claims {count} {what}, more than the file can hold")

    def short(self) -> ArtefactError:
        if self.size > self.limit:
            return self.bad(f"has a header larger than {_MAX_HEADER >> 20} MiB")
        return ArtefactError(f"{self.source} ends inside its header ({self.size} bytes)", hint=REMEDY)

    def bad(self, what: str) -> ArtefactError:
        return ArtefactError(f"{self.source} is not a sound GGUF file: it {what}", hint=REMEDY)
