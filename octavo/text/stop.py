"""Stop strings in a stream of text. Knows nothing of tokens beyond "not yet".

What might be the beginning of a stop string is held back until it is certain, so that no part
of one ever gets out. The result does not depend on how the text is cut: the match that ends
first wins, and of those that end together the longest.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """`feed` returns the text that is certain; `matched` is the string that ended it, if any."""

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self._stops = tuple(stops)
        self._include = include
        self._held = ""
        self.matched: str | None = None

    def feed(self, text: str, *, armed: bool = True) -> str:
        """`armed` False: a stop string that ends within `text` does not count (min_tokens)."""
        if self.matched is not None or not text:
            return ""
        before = len(self._held)
        buffer = self._held + text
        hit = self._first(buffer, before) if armed else None
        if hit is not None:
            start, end = hit
            self.matched, self._held = buffer[start:end], ""
            return buffer[: end if self._include else start]
        keep = self._pending(buffer)
        self._held = buffer[len(buffer) - keep :]
        return buffer[: len(buffer) - keep]

    def close(self) -> str:
        """The text held back, once nothing more will come."""
        text, self._held = self._held, ""
        return text

    def _first(self, buffer: str, before: int) -> tuple[int, int] | None:
        """(start, end) of the match that ends first, among those that end after `before`."""
        best: tuple[int, int] | None = None
        for stop in self._stops:
            start = buffer.find(stop, max(before - len(stop) + 1, 0))
            if start < 0:
                continue
            end = start + len(stop)
            if best is None or (end, start) < (best[1], best[0]):
                best = (start, end)
        return best

    def _pending(self, buffer: str) -> int:
        """Length of the longest end of `buffer` with which a stop string begins."""
        return max((_overlap(buffer, stop) for stop in self._stops), default=0)


def _overlap(buffer: str, stop: str) -> int:
    at = max(len(buffer) - len(stop) + 1, 0)
    while (at := buffer.find(stop[0], at)) >= 0:
        if stop.startswith(buffer[at:]):
            return len(buffer) - at
        at += 1
    return 0
