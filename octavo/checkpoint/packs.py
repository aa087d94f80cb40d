"""Packed weights kept in files, so that a later start maps them instead of packing again.

A file is a header and the weights' memory as it was. Whoever maps it shares its pages with all others;
files are only ever made whole and renamed, or removed, never written to. The checksum finds torn and
decayed files, it does not tell who wrote them: the folder is the user's own. Knows no model and no torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import logging
import mmap
import os
import re
import shutil
import stat
import struct
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_MAGIC = b"OCTPACK1"
_HEADER = struct.Struct("<8s32sQ32s")  # magic, key, bytes that follow the header, checksum
_PAGE = 4096  # bytes; the header takes one, weights fill whole ones
_PIECE = 8 << 20  # bytes read or written at once
_HUGE = 14  # Linux: MADV_HUGEPAGE
_STALE = 3600  # seconds after which an unfinished file belongs to a dead process
_log = logging.getLogger(__name__)

Bytes = Any  # a numpy array of uint8, one dimension


class Pack(NamedTuple):
    """What a file holds: `label` for people, `key` for these very weights, and their bytes."""

    label: str
    key: bytes  # 32
    nbytes: int  # a multiple of 4096

    @property
    def file(self) -> str:
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', self.label)[:80]}-{self.key.hex()[:16]}.pack"


def pack_key(parts: Iterable[str]) -> bytes:
    """Of everything that decides what a file holds."""
    digest = hashlib.sha256(_MAGIC)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part.encode())
    return digest.digest()


def rounded(nbytes: int) -> int:
    """To whole pages, as a file holds them."""
    return -(-nbytes // _PAGE) * _PAGE


class Mapped(NamedTuple):
    """A file's weights as read-only memory; mapped as long as `array` or something made of it lives."""

    array: Bytes
    huge: bool  # whether the kernel maps it in huge pages


class PackStore:
    """A private folder of files, bounded: what was used least lately goes first."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit

    def holds(self, pack: Pack) -> bool:
        """Whether there is a file that says it is this one."""
        return (self._folder / pack.file).is_file()

    def refused(self, nbytes: int) -> str | None:
        """Why weights of this size are not kept, or None."""
        if nbytes + _PAGE > self._limit:
            return f"{nbytes >> 20} MiB are more than --weight-cache-bytes {self._limit}"
        return None

    def open(self, pack: Pack, threads: int = 1) -> Mapped | None:
        """None where there is no sound file of it; one that is not sound is removed."""
        path = self._folder / pack.file
        try:
            with _opened(path) as file:
                mapped = _mapped(file, pack, threads)
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _log.warning("%s is made anew: %s", path, error)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        return mapped

    def keep(self, pack: Pack, array: Bytes) -> threading.Thread:
        """Writes a file beside whatever else runs, at a low priority; the thread that does so, which a
        program's end waits for. A full disk costs no more than the next start's time.
        """
        writer = threading.Thread(target=self._keep, args=(pack, array), name="octavo-pack")
        writer.start()
        return writer

    def _keep(self, pack: Pack, array: Bytes) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._make_room(pack)
            self._write(pack, array)
        except OSError as error:
            _log.warning("packed weights are not kept in %s: %s", self._folder, error.strerror or error)

    def _make_room(self, pack: Pack) -> None:
        """Removes what is unfinished or used least lately until this one fits the bound."""
        now = time.time()
        for path in self._folder.glob("*.part"):
            if now - path.stat().st_mtime > _STALE:
                path.unlink(missing_ok=True)
        files = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in packs(self._folder))
        room = self._limit - pack.nbytes - _PAGE - sum(size for _, size, _ in files)
        for _, size, path in files:
            if room >= 0:
                break
            path.unlink(missing_ok=True)
            room += size
        free = shutil.disk_usage(self._folder).free
        if pack.nbytes > free // 2:
            needed = f"{pack.nbytes >> 20} MiB"
            raise OSError(errno.ENOSPC, f"{needed} are more than half of the {free >> 20} MiB left")

    def _write(self, pack: Pack, array: Bytes) -> None:
        handle, name = tempfile.mkstemp(dir=self._folder, suffix=".part")  # 0600
        try:
            with open(handle, "r+b", buffering=0) as file:
                for at in range(0, pack.nbytes, _PIECE):
                    _write_all(file.fileno(), memoryview(array[at : at + _PIECE]), _PAGE + at)
                _write_all(file.fileno(), memoryview(_header(pack, _sum(array))), 0)
            os.replace(name, self._folder / pack.file)  # whoever else makes it gets the same
        except BaseException:
            os.unlink(name)
            raise


def packs(folder: Path) -> list[Path]:
    """Files of packed weights in a folder, by name."""
    return sorted(folder.glob("*.pack")) if folder.is_dir() else []


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor of a file that nobody but this user could have written."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise ValueError("it is not this user's private file")
        yield file
    finally:
        os.close(file)


def _mapped(file: int, pack: Pack, threads: int) -> Mapped:
    """ValueError where the file is not exactly this pack."""
    if (size := os.fstat(file).st_size) != _PAGE + pack.nbytes:
        raise ValueError(f"it has {size} bytes, {_PAGE + pack.nbytes} are expected")
    header = os.pread(file, _HEADER.size, 0)
    memory = mmap.mmap(file, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    with contextlib.suppress(OSError):  # a kernel or file system without them
        memory.madvise(_HUGE)
    array = np.frombuffer(memory, np.uint8, offset=_PAGE)
    if header != _header(pack, _sum(array, threads))[: _HEADER.size]:
        raise ValueError("its checksum is wrong")
    return Mapped(array, _huge(array.ctypes.data - _PAGE, size))


def _header(pack: Pack, checksum: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, pack.key, pack.nbytes, checksum).ljust(_PAGE, b"\0")


def _sum(array: Bytes, threads: int = 1) -> bytes:
    """SHA-256 over the sum of each page's words: as fast as memory is read, and no torn, missing or
    misplaced page passes."""

    def words(at: int) -> bytes:
        pages = array[at : at + _PIECE].view(np.uint64).reshape(-1, _PAGE // 8)
        return bytes(pages.sum(1, dtype=np.uint64))

    digest, pieces = hashlib.sha256(), range(0, len(array), _PIECE)
    if threads == 1:  # a program that ends starts no further thread
        for at in pieces:
            digest.update(words(at))
        return digest.digest()
    with ThreadPoolExecutor(threads) as pool:
        for sums in pool.map(words, pieces):
            digest.update(sums)
    return digest.digest()


def _write_all(file: int, data: memoryview, at: int) -> None:
    while data:
        done = os.pwrite(file, data, at)
        data, at = data[done:], at + done


def _huge(address: int, nbytes: int) -> bool:
    """Whether most of a mapping that was read lies in huge pages, by what Linux says of it."""
    try:
        lines = Path("/proc/self/smaps").read_text().splitlines()
    except OSError:
        return False
    begins = f"{address:x}-"
    at = next((i for i, line in enumerate(lines) if line.startswith(begins)), len(lines))
    for line in lines[at : at + 30]:
        if line.startswith("FilePmdMapped:"):
            return int(line.split()[1]) * 1024 * 2 > nbytes
    return False


def as_buffer(array: Bytes) -> Any:
    """Memory of a read-only array as ctypes sees it, for those who promise not to write: torch warns
    of buffers that cannot be written. Keeps the array."""
    buffer: Any = (ctypes.c_uint8 * len(array)).from_address(array.ctypes.data)
    buffer.keeps = array
    return buffer
