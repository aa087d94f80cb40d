"""Where the user's package index keeps a wheel. Asks pip for its settings, so that mirrors, proxies
and certificates configured for pip hold here too. Knows nothing of what is inside the wheel.

Not `pip download`, because that can neither resume nor show progress, and a dry run of it fetches
the whole file wherever the index serves no separate metadata.
"""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urldefrag, urljoin, urlsplit
from urllib.request import url2pathname

from octavo.checkpoint.download import trust
from octavo.config import env

if TYPE_CHECKING:
    import httpx

PYPI = "https://pypi.org/simple"
_JSON = "application/vnd.pypi.simple.v1+json"


class PipSettings(NamedTuple):
    """The part of pip's configuration that says where files come from."""

    indexes: tuple[str, ...] = (PYPI,)
    find_links: tuple[str, ...] = ()
    cert: str | None = None
    proxy: str | None = None
    trusted: tuple[str, ...] = ()


def has_pip() -> bool:
    return importlib.util.find_spec("pip") is not None


def settings() -> PipSettings:
    """pip's merged configuration (files and environment); PyPI's where there is no pip."""
    if not has_pip():
        return PipSettings(indexes=(env.read("PIP_INDEX_URL") or PYPI,))
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return parse_config(answer.stdout)


def parse_config(text: str) -> PipSettings:
    """Reads the lines of `pip config list`: section.key='value', where :env: beats the files."""
    found: dict[str, tuple[int, str]] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        section, _, key = name.rpartition(".")
        rank = {"global": 1, "download": 2, "install": 2, ":env:": 3}.get(section)
        if not equals or rank is None:
            continue
        if rank >= found.get(key, (0, ""))[0]:
            found[key] = (rank, str(ast.literal_eval(value)))
    values = {key: value for key, (_, value) in found.items()}
    index = () if _yes(values.get("no-index")) else (values.get("index-url", PYPI),)
    return PipSettings(
        indexes=(*index, *values.get("extra-index-url", "").split()),
        find_links=tuple(values.get("find-links", "").split()),
        cert=values.get("cert"),
        proxy=values.get("proxy"),
        trusted=tuple(values.get("trusted-host", "").split()),
    )


def _yes(value: str | None) -> bool:
    return (value or "").lower() in ("1", "true", "yes", "on")


def http_client(pip: PipSettings, url: str) -> httpx.Client:
    """A client that trusts and tunnels as pip would for `url`."""
    import httpx

    parts = urlsplit(url)
    trusted = {parts.hostname, parts.netloc.rpartition("@")[2]} & set(pip.trusted)
    return httpx.Client(
        verify=False if trusted else trust(pip.cert),
        proxy=pip.proxy,
        timeout=httpx.Timeout(30.0, connect=15.0),
        headers={"User-Agent": "octavo"},
    )


def candidates(pip: PipSettings, project: str, filename: str, problems: list[str]) -> Iterator[str | Path]:
    """Places that hold `filename`: local files first, then URLs. What failed is added to `problems`."""
    pages = [*pip.find_links, *(index.rstrip("/") + f"/{project}/" for index in pip.indexes)]
    for page in sorted(pages, key=lambda place: _local(place) is None):
        folder = _local(page)
        if folder is not None:
            yield from _in_folder(folder, filename)
        else:
            yield from _on_page(pip, page, filename, problems)


def _local(place: str) -> Path | None:
    if place.startswith("file:"):
        return Path(url2pathname(urlsplit(place).path))
    return None if "://" in place else Path(place).expanduser()


def _in_folder(folder: Path, filename: str) -> Iterator[str | Path]:
    if (folder / filename).is_file():
        yield folder / filename
    page = folder if folder.suffix == ".html" else folder / "index.html"
    if page.is_file():
        for url in links(page.read_text(encoding="utf-8"), page.as_uri(), filename):
            local = _local(url)
            if local is None:
                yield url
            elif local.is_file():
                yield local


def _on_page(pip: PipSettings, page: str, filename: str, problems: list[str]) -> Iterator[str]:
    import httpx

    try:
        with http_client(pip, page) as client:
            accept = {"Accept": f"{_JSON}, text/html;q=0.1"}
            answer = client.get(page, headers=accept, follow_redirects=True)
    except httpx.HTTPError as error:
        problems.append(f"{_shown(page)}: {error or type(error).__name__}")
        return
    if answer.status_code != 200:
        problems.append(f"{_shown(page)} answered {answer.status_code}")
    elif "json" in answer.headers.get("content-type", ""):
        for file in answer.json().get("files", []):
            if file.get("filename") == filename:
                yield urljoin(str(answer.url), file["url"])
    else:
        yield from links(answer.text, str(answer.url), filename)


def _shown(url: str) -> str:
    """The URL without a password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def links(html: str, base: str, filename: str) -> list[str]:
    """Absolute addresses of the anchors in `html` that lead to `filename`."""
    page = _Anchors()
    page.feed(html)
    plain = (urldefrag(urljoin(base, href)).url for href in page.hrefs)
    return [url for url in plain if unquote(urlsplit(url).path).rpartition("/")[2] == filename]


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.hrefs += [value for key, value in attrs if key == "href" and value]
