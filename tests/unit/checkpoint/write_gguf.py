"""A small GGUF writer with no checks, so that tests can write broken files too. Torch-free."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_CODES = {
    U8: "B",
    I8: "b",
    U16: "H",
    I16: "h",
    U32: "I",
    I32: "i",
    F32: "f",
    BOOL: "?",
    U64: "Q",
    I64: "q",
    F64: "d",
}


class Raw(NamedTuple):
    """A tensor: `shape` in torch's order, `kind` the format's number."""

    kind: int
    shape: Sequence[int]
    data: bytes
    offset: int | None = None  # None: after the one before


class Typed(NamedTuple):
    """A metadata value whose type is not the obvious one."""

    kind: int
    value: Any


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def value(of: Any) -> bytes:
    """Type number and encoding."""
    if isinstance(of, Typed):
        if of.kind == ARRAY:
            item, items = of.value
            body = b"".join(
                string(i) if item == STRING else struct.pack("<" + _CODES[item], i) for i in items
            )
            return struct.pack("<IIQ", ARRAY, item, len(items)) + body
        return struct.pack("<I" + _CODES[of.kind], of.kind, of.value)
    if isinstance(of, bool):
        return struct.pack("<I?", BOOL, of)
    if isinstance(of, int):
        return struct.pack("<II", U32, of)
    if isinstance(of, float):
        return struct.pack("<If", F32, of)
    if isinstance(of, str):
        return struct.pack("<I", STRING) + string(of)
    kind = STRING if isinstance(of[0], str) else I32
    return value(Typed(ARRAY, (kind, of)))


def gguf_bytes(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Raw],
    *,
    version: int = 3,
    align: int = 32,
    tensor_count: int | None = None,
    entry_count: int | None = None,
) -> bytes:
    head = b"GGUF" + struct.pack(
        "<IQQ",
        version,
        len(tensors) if tensor_count is None else tensor_count,
        len(metadata) if entry_count is None else entry_count,
    )
    for key, item in metadata.items():
        head += string(key) + value(item)
    body = b""
    for name, raw in tensors.items():
        offset = len(body) if raw.offset is None else raw.offset
        head += string(name) + struct.pack("<I", len(raw.shape))
        head += b"".join(struct.pack("<Q", n) for n in reversed(raw.shape)) + struct.pack(
            "<IQ", raw.kind, offset
        )
        body += raw.data + bytes(-len(raw.data) % align)
    return head + bytes(-len(head) % align) + body
