"""The part of a cut-off JSON object that is certain: what clients see of it while it is streamed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

_MARKS = re.compile(r'"(?:[^"\\]|\\.)*"?|[{}\[\],]', re.S)
_CLOSERS = {"{": "}", "[": "]"}


def certain(text: str) -> dict[str, Any]:
    """Complete members and elements; what is half there is left out. {} for what is no object."""
    for start in (text, *_closed(text)):
        try:
            found = msgspec.json.decode(start)
        except (msgspec.DecodeError, RecursionError):
            continue
        return found if isinstance(found, dict) else {}
    return {}


def _closed(text: str) -> Iterator[str]:
    """The text as far as something could end there, its brackets closed: all of it, then up to the last
    bracket or comma."""
    open_: list[str] = []
    last, closers = 0, ""
    quoted = False
    for mark in _MARKS.finditer(text):
        char = mark[0][0]
        quoted = char == '"' and not (len(mark[0]) > 1 and mark[0].endswith('"'))
        if char == '"':
            continue
        if char in _CLOSERS:
            open_.append(_CLOSERS[char])
        elif char != "," and open_:
            open_.pop()
        last, closers = mark.start() if char == "," else mark.end(), "".join(reversed(open_))
    if not quoted:
        yield text + "".join(reversed(open_))
    yield text[:last] + closers
