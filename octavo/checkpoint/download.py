"""One large file over HTTP: resumed, verified, safe against two processes at once.

Knows nothing of models or package indexes. A file under its final name is complete and verified,
because it only gets that name by an atomic rename.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from octavo.core.errors import ArtefactError, UserError

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

Progress = Callable[[str, float], None]  # stage, done share in [0, 1]
_CHUNK = 1 << 20
_ATTEMPTS = 5  # connections a single download may take; each goes on where the last one broke


class Broken(Exception):
    """This source did not deliver the file; another one may."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on `path` between processes; waits for whoever has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            log.info("another process is fetching into %s; waiting for it", path.parent)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def need_space(folder: Path, nbytes: int) -> None:
    """UserError when `folder` (which exists) has less than `nbytes` free."""
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        raise UserError(
            f"{folder} has {free / 1e6:.0f} MB free, {nbytes / 1e6:.0f} MB are needed",
            hint="free some space, or set OCTAVO_HOME to a folder on another disk",
        )


def trust(extra: str | None) -> ssl.SSLContext:
    """Certificates of the system, of certifi and of `extra` (pip's `cert` setting), together."""
    import certifi

    context = ssl.create_default_context()
    for bundle in (certifi.where(), extra):
        if bundle and Path(bundle).is_file():
            context.load_verify_locations(bundle)
    return context


def fetch(client: httpx.Client, url: str, target: Path, size: int, sha256: str, tell: Progress) -> None:
    """Downloads `url` to `target`, going on from `target.part` if an earlier run left one.

    Broken when the source fails or delivers something else; a wrong file never gets its name.
    """
    part = target.with_name(target.name + ".part")
    if part.exists() and part.stat().st_size > size:
        part.unlink()
    for _ in range(_ATTEMPTS):
        before = part.stat().st_size if part.exists() else 0
        trouble = _more(client, url, part, size, tell)
        after = part.stat().st_size if part.exists() else 0
        if after == size:
            break
        if trouble is None or after == before:
            raise Broken(trouble or f"{url} ended after {after} of {size} bytes")
        log.info("the connection broke at %d of %d bytes; resuming", after, size)
    else:
        raise Broken(f"{url} broke {_ATTEMPTS} times")
    adopt(part, target, sha256)


def adopt(part: Path, target: Path, sha256: str) -> None:
    """Gives a complete file its final name. Broken (and the file is gone) if its hash is wrong."""
    if digest(part) != sha256:
        part.unlink()
        raise Broken(f"{target.name} did not match its checksum and was discarded")
    os.replace(part, target)


def digest(path: Path) -> str:
    seen = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            seen.update(chunk)
    return seen.hexdigest()


def _more(client: httpx.Client, url: str, part: Path, size: int, tell: Progress) -> str | None:
    """One connection. Returns what broke it, None when the source had no more to say."""
    import httpx

    have = part.stat().st_size if part.exists() else 0
    if have == size:
        return None
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        with client.stream("GET", url, headers=headers, follow_redirects=True) as answer:
            if answer.status_code == 416:  # what we hold is not a beginning of this file
                part.unlink(missing_ok=True)
                return "the partial download did not fit and was discarded"
            if answer.status_code not in (200, 206):
                return f"{url} answered {answer.status_code}"
            resumed = answer.status_code == 206
            # raw pieces as they come: a fixed chunk size would hold back, and lose, the last of them
            with part.open("ab" if resumed else "wb") as sink:
                _pour(answer.iter_raw(), sink, have if resumed else 0, size, tell)
    except httpx.HTTPError as error:
        return f"{url}: {type(error).__name__}: {error}"
    except OSError as error:
        raise ArtefactError(
            f"cannot write {part}: {error.strerror or error}", hint="make room, or set OCTAVO_HOME"
        ) from error
    return None


def _pour(chunks: Iterator[bytes], sink: object, done: int, size: int, tell: Progress) -> None:
    for chunk in chunks:
        done += len(chunk)
        if done > size:  # never fill the disk with something that is not our file
            raise Broken(f"the source sends more than {size} bytes")
        sink.write(chunk)  # type: ignore[attr-defined]
        tell("fetch", done / size)
