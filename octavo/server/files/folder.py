"""A private folder: mode 0700, ours, one server at a time. Knows nothing of what lies in it."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from octavo.core.errors import EngineDead


class Folder:
    """Made by `open`, which also takes the lock; `close` gives it back."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path, *parts: str) -> Folder:
        """The folder and its `parts`, made where they are missing. EngineDead (503: no client can mend it)
        when it is not private or another server uses it."""
        for one in (path, *(path / part for part in parts)):
            _make_private(one)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            hint = "start this server with a --files-dir of its own"
            raise EngineDead("another server keeps files in the same folder", hint=hint) from None
        return cls(path, lock)

    def close(self) -> None:
        os.close(self._lock)


def _make_private(path: Path) -> None:
    """The parents may be anybody's; the folder itself has to be a real one, and ours alone."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        hint = "name another folder with --files-dir"
        raise EngineDead(f"the folder for files cannot be made: {error.strerror}", hint=hint) from None
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not ours or found.st_mode & 0o077:
        hint = "it has to be a folder of your own with mode 0700; or name another with --files-dir"
        raise EngineDead("the folder for files is open to others", hint=hint)


def write_whole(path: Path, data: bytes) -> None:
    """Replaces a small file at once: it holds the old bytes or the new ones, whatever happens."""
    fresh = path.with_suffix(".new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
