"""Files named by a path or by an address: fetched before work, sent after it."""

from __future__ import annotations

from pathlib import Path

import httpx

from octavo.core.errors import Fault, UserError

_TIMEOUT = httpx.Timeout(300.0, connect=10.0)


def remote(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def check_readable(path: Path) -> None:
    """UserError for a path that is no file we can read."""
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        hint = "name a file that may be read, or an http(s) address"
        raise UserError(f"{path} cannot be read: {error.strerror}", hint=hint, field="input_file") from None


def get(url: str, path: Path) -> None:
    """The file at `url`, piece by piece."""
    try:
        with (
            httpx.stream("GET", url, timeout=_TIMEOUT, follow_redirects=True) as answer,
            path.open("wb") as out,
        ):
            answer.raise_for_status()
            for piece in answer.iter_bytes():
                out.write(piece)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Fault(f"{url} cannot be fetched: {error}", hint="is the address right?") from None


def put(path: Path, url: str) -> None:
    try:
        with path.open("rb") as file:
            httpx.put(url, content=file, timeout=_TIMEOUT).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Fault(
            f"the answers cannot be sent to {url}: {error}",
            hint="with --output-tmp-dir they are kept, and the same command sends them again",
        ) from None
