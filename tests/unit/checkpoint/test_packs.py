"""Packed weights on disk: found again as they were, bounded, private; what is broken is made anew."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from octavo.checkpoint import packs
from octavo.checkpoint.packs import Pack, PackStore, pack_key, rounded

MIB = 1 << 20
SIZE = rounded(20 * MIB + 5)  # several pieces, the last one shorter
Usage = namedtuple("Usage", "total used free")


def pack(name: str = "org/model", nbytes: int = SIZE) -> Pack:
    return Pack(name, pack_key([name]), nbytes)


def filled(nbytes: int = SIZE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, nbytes, dtype=np.uint8)


@pytest.fixture
def store(tmp_path: Path) -> PackStore:
    return PackStore(tmp_path / "home" / "packed", 64 * MIB)


@pytest.fixture
def kept(store: PackStore, tmp_path: Path) -> Path:
    """The file of `pack()`."""
    store.keep(pack(), filled()).join()
    return tmp_path / "home" / "packed" / pack().file


@pytest.mark.parametrize("threads", [1, 2])
def test_it_is_found_as_it_was(store: PackStore, kept: Path, threads: int) -> None:
    found = store.open(pack(), threads)
    assert found is not None and np.array_equal(found.array, filled())
    assert not found.array.flags.writeable
    assert store.holds(pack()) and not store.holds(pack("other"))
    assert store.open(pack("other")) is None
    assert [path.name for path in kept.parent.iterdir()] == [kept.name], "nothing unfinished is left"


def test_only_its_user_may_read_it(kept: Path) -> None:
    assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_everyone_maps_the_same_pages(store: PackStore, kept: Path) -> None:
    held = [store.open(pack()), store.open(pack())]
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(kept) in line]
    assert len(lines) == len(held) and all(line.split()[1] == "r--s" for line in lines)


def test_it_lives_as_long_as_it_is_used(store: PackStore, kept: Path) -> None:
    found = store.open(pack())
    assert found is not None
    buffer = packs.as_buffer(found.array)
    del found
    kept.unlink()  # as `octavo cache clear` does beside a running engine
    assert bytes(buffer)[-1000:] == filled()[-1000:].tobytes()


def at(place: float) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        where = min(int(path.stat().st_size * place), path.stat().st_size - 1)
        with path.open("r+b") as file:
            file.seek(where)
            byte = file.read(1)[0]
            file.seek(where)
            file.write(bytes([byte ^ 1]))

    return flip


def swap_pages(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:8192], data[8192:12288] = data[8192:12288], data[4096:8192]
    path.write_bytes(data)


def link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


BREAKS: dict[str, Callable[[Path], object]] = {
    "its first byte": at(0),
    "its key": at(10 / SIZE),
    "the first page": at(5000 / SIZE),
    "the middle": at(0.5),
    "the end": at(1.0),
    "pages in each other's place": swap_pages,
    "cut": lambda path: os.truncate(path, SIZE // 2),
    "empty": lambda path: os.truncate(path, 0),
    "a page longer": lambda path: os.truncate(path, SIZE + 2 * 4096),
    "zeros where nothing was written": lambda path: (os.truncate(path, SIZE), os.truncate(path, SIZE + 4096)),
    "of another model": lambda path: shutil.copy(path, path.with_name(pack("other").file)),
    "readable to others": lambda path: path.chmod(0o644),
    "a link": link,
}


@pytest.mark.parametrize("what", BREAKS)
def test_what_is_not_sound_is_removed(
    store: PackStore, kept: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    BREAKS[what](kept)
    asked = pack("other") if what == "of another model" else pack()
    with caplog.at_level(logging.WARNING):
        assert store.open(asked) is None
    assert "is made anew" in caplog.text and not store.holds(asked)
    store.keep(asked, filled(seed=1)).join()
    found = store.open(asked)
    assert found is not None and np.array_equal(found.array, filled(seed=1))


def test_what_was_used_least_lately_goes_first(tmp_path: Path) -> None:
    store = PackStore(tmp_path, 2 * (SIZE + 4096))
    for i, name in enumerate(("a", "b")):
        store.keep(pack(name), filled()).join()
        os.utime(tmp_path / pack(name).file, (i, i))
    assert store.open(pack("a")) is not None, "now b is the one to go"
    store.keep(pack("c"), filled()).join()
    assert [store.holds(pack(name)) for name in "abc"] == [True, False, True]


def test_larger_than_the_bound_is_refused_by_name(tmp_path: Path) -> None:
    store = PackStore(tmp_path, SIZE)
    assert store.refused(SIZE - 4096) is None
    assert "--weight-cache-bytes" in str(store.refused(SIZE))


def test_a_full_disk_leaves_nothing_behind(
    store: PackStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: int, data: memoryview, where: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with caplog.at_level(logging.WARNING):
        store.keep(pack(), filled()).join()
    assert "No space left" in caplog.text and not list((tmp_path / "home" / "packed").iterdir())


def test_a_nearly_full_disk_is_left_alone(
    store: PackStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(SIZE * 9, SIZE * 8, SIZE))
    with caplog.at_level(logging.WARNING):
        store.keep(pack(), filled()).join()
    assert "half" in caplog.text
    assert not list((tmp_path / "home" / "packed").iterdir())


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        PackStore(tmp_path / "file" / "packed", 64 * MIB).keep(pack(), filled()).join()
    assert "not kept" in caplog.text


def test_what_a_dead_process_left_goes(store: PackStore, kept: Path) -> None:
    old, new = kept.parent / "a.part", kept.parent / "b.part"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 7200,) * 2)
    store.keep(pack("other"), filled()).join()
    assert not old.exists() and new.exists(), "another process may be writing the young one"


def test_a_key_depends_on_every_part_and_where_it_ends() -> None:
    keys = [pack_key(parts) for parts in (["a", "b"], ["ab"], ["b", "a"], ["a"], [])]
    assert len(set(keys)) == len(keys) and keys[0] == pack_key(iter(["a", "b"]))


def test_names_of_files_are_plain() -> None:
    assert "/" not in Pack("../../etc/pass wd\n" * 20, b"k" * 32, 4096).file
    assert len(Pack("x" * 1000, b"k" * 32, 4096).file) < 120
