"""Headers are read exactly, and no file, however broken, does more than raise ArtefactError."""

from __future__ import annotations

import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from octavo.checkpoint.gguf_header import BLOCK_TYPES, read_header
from octavo.core.errors import ArtefactError
from tests.unit.checkpoint.write_gguf import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I8,
    I64,
    STRING,
    U8,
    U64,
    Raw,
    Typed,
    gguf_bytes,
    string,
    value,
)

TENSORS = {
    "a.weight": Raw(0, (3, 4), bytes(48)),
    "b.weight": Raw(8, (2, 64), bytes(2 * 2 * 34)),
    "c.weight": Raw(30, (5,), bytes(10)),
}
METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "n": 7,
    "x": 0.5,
    "on": True,
    "big": Typed(U64, 2**63),
    "low": Typed(I64, -(2**40)),
    "tiny": Typed(I8, -3),
    "precise": Typed(F64, 0.1),
    "words": ["a", "", "Ġthe", "日本"],
    "ids": [1, -2, 3],
    "bytes": Typed(ARRAY, (U8, [0, 255])),
    "wide": Typed(ARRAY, (U64, [2**40, 1])),
    "flags": Typed(ARRAY, (BOOL, [True, False])),
}


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "m.gguf"


def test_reads_every_type(file: Path) -> None:
    header = read_header(write(file, gguf_bytes(METADATA, TENSORS)))
    got = {
        key: item if isinstance(item, str | int | float) else list(item)
        for key, item in header.metadata.items()
    }
    assert got == {
        "general.architecture": "llama", "n": 7, "x": 0.5, "on": True, "big": 2**63, "low": -(2**40), "tiny": -3,
        "precise": 0.1, "words": ["a", "", "Ġthe", "日本"], "ids": [1, -2, 3], "bytes": [0, 255],
        "wide": [2**40, 1], "flags": [1, 0],
    }  # fmt: skip
    assert header.metadata["on"] is True
    assert {name: (t.type, t.shape, t.nbytes) for name, t in header.tensors.items()} == {
        "a.weight": ("F32", (3, 4), 48),
        "b.weight": ("Q8_0", (2, 64), 136),
        "c.weight": ("BF16", (5,), 10),
    }
    data = file.read_bytes()
    first = header.tensors["a.weight"].offset
    assert first % 32 == 0 and len(data) - first == 64 + 160 + 32
    assert header.tensors["b.weight"].offset == first + 64


def test_version_2_and_other_alignment(file: Path) -> None:
    data = gguf_bytes({"general.alignment": 64}, TENSORS, version=2, align=64)
    assert all(t.offset % 64 == 0 for t in read_header(write(file, data)).tensors.values())


def entry(kind: int, body: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("k") + struct.pack("<I", kind) + body


HUGE = 2**64 - 1
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "too short"),
    "other file": (b"PK\x03\x04" + bytes(40), "does not start with GGUF"),
    "version 1": (gguf_bytes(METADATA, TENSORS, version=1), "version 1"),
    "big endian": (gguf_bytes(METADATA, TENSORS, version=0x03000000), "version 50331648"),
    "tensor count": (gguf_bytes({}, {}, tensor_count=HUGE) + bytes(64), f"claims {HUGE} tensors"),
    "entry count": (gguf_bytes({}, {}, entry_count=2**60) + bytes(64), "metadata entries"),
    "long key": (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 40) + bytes(64), "string of"),
    "long string": (entry(STRING, struct.pack("<Q", HUGE) + bytes(32)), "string of"),
    "string past the end": (entry(STRING, struct.pack("<Q", 500) + bytes(32)), "ends inside its header"),
    "array of strings": (entry(ARRAY, struct.pack("<IQ", STRING, 1 << 58) + bytes(64)), "strings"),
    "string in an array": (entry(ARRAY, struct.pack("<IQQ", STRING, 2, HUGE - 8) + bytes(64)), "ends inside"),
    "array of numbers": (entry(ARRAY, struct.pack("<IQ", F32, 1 << 62) + bytes(64)), "array items"),
    "array of arrays": (entry(ARRAY, struct.pack("<IQ", ARRAY, 1) + bytes(64)), "unsupported type"),
    "unknown type": (entry(99, bytes(64)), "unknown type 99"),
    "key twice": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * (string("k") + value(1)) + bytes(64),
        "'k' twice",
    ),
    "no dimensions": (gguf_bytes({}, {"t": Raw(0, (), b"")}), "0 dimensions"),
    "many dimensions": (gguf_bytes({}, {"t": Raw(0, (1,) * 9, bytes(4))}), "9 dimensions"),
    "zero rows": (gguf_bytes({}, {"t": Raw(0, (0, 4), b"")}), "shape (0, 4)"),
    "sizes that wrap": (gguf_bytes({}, {"t": Raw(0, (2**33, 2**31), bytes(64))}), "outside the file"),
    "part of a block": (gguf_bytes({}, {"t": Raw(8, (2, 33), bytes(64))}), "shape (2, 33)"),
    "unknown tensor type": (gguf_bytes({}, {"t": Raw(77, (4,), bytes(16))}), "unknown type 77"),
    "offset past the end": (gguf_bytes({}, {"t": Raw(0, (4,), bytes(16), offset=64)}), "outside the file"),
    "offset that wraps": (
        gguf_bytes({}, {"t": Raw(0, (4,), bytes(16), offset=2**64 - 32)}),
        "outside the file",
    ),
    "odd offset": (gguf_bytes({}, {"t": Raw(0, (4,), bytes(64), offset=4)}), "outside the file"),
    "overlap": (
        gguf_bytes({}, {"t": Raw(0, (16,), bytes(64)), "u": Raw(0, (4,), bytes(16), offset=32)}),
        "overlap",
    ),
    "alignment 0": (gguf_bytes({"general.alignment": 0}, TENSORS), "alignment 0"),
    "alignment 48": (gguf_bytes({"general.alignment": 48}, TENSORS), "alignment 48"),
    "alignment text": (gguf_bytes({"general.alignment": "32"}, TENSORS), "alignment '32'"),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_files(file: Path, name: str) -> None:
    data, message = BROKEN[name]
    with pytest.raises(ArtefactError, match=r"m\.gguf") as caught:
        read_header(write(file, data))
    assert message in str(caught.value)


def test_tensor_twice(file: Path) -> None:
    once = gguf_bytes({}, {"tt": Raw(0, (4,), bytes(16)), "uu": Raw(0, (4,), bytes(16))})
    with pytest.raises(ArtefactError, match="'tt' twice"):
        read_header(write(file, once.replace(b"uu", b"tt")))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="No such file"):
        read_header(tmp_path / "none.gguf")


def test_every_truncation_is_refused(file: Path) -> None:
    data = gguf_bytes(METADATA, TENSORS)
    for length in range(0, len(data) - 32, 3):
        with pytest.raises(ArtefactError):
            read_header(write(file, data[:length]))


def test_mutations_never_crash_or_allocate(file: Path) -> None:
    """Flipped bits, spliced bytes and huge numbers: sound or ArtefactError, in little memory."""
    data = gguf_bytes(METADATA, TENSORS)
    chance = random.Random(7)
    refused = 0
    tracemalloc.start()
    for _ in range(600):
        mutant = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(mutant) - 8)
            kind = chance.randrange(4)
            if kind == 0:
                mutant[at] ^= 1 << chance.randrange(8)
            elif kind == 1:
                mutant[at : at + 8] = struct.pack("<Q", chance.choice((0, 1, 2**31, 2**32, 2**63, HUGE)))
            elif kind == 2:
                mutant[at : at + 4] = struct.pack("<I", chance.choice((0, 8, 9, 12, 2**31, 2**32 - 1)))
            else:
                del mutant[at : at + chance.randint(1, 8)]
        try:
            header = read_header(write(file, bytes(mutant)))
        except ArtefactError:
            refused += 1
        else:
            assert all(t.offset + t.nbytes <= len(mutant) for t in header.tensors.values())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 200 < refused < 600
    assert peak < 4 << 20


def test_every_type_has_a_name_of_its_own() -> None:
    assert len({block.name for block in BLOCK_TYPES.values()}) == len(BLOCK_TYPES)
