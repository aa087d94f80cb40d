"""A cursor over text that is still arriving. Knows no format; never decides before it can.

A parser is a generator that reads from a Splitter and yields events; where the text does not
suffice it yields None and is resumed when more has come. Every reader here consumes as soon as
the matter is certain and keeps back only what might become a tag, so what a parser has said
after some text depends on that text, not on how it was cut, and all text is looked at a
bounded number of times.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

from octavo.parsers.events import Event

T = TypeVar("T")
Parse = Generator[Event | None, None, T]

SPACES = " \t\r\n"


class Splitter:
    """`looked` counts the characters examined, ever: tests hold it to a multiple of the input."""

    def __init__(self) -> None:
        self._buffer = ""
        self._at = 0
        self._record: list[str] | None = None
        self.ended = False
        self.looked = 0

    def add(self, text: str) -> None:
        self.looked += len(self._buffer) - self._at + len(text)
        self._buffer = self._buffer[self._at :] + text
        self._at = 0

    # What was read can be had back, for a call that turns out to be none.

    def mark(self) -> None:
        """Remember what is read from here on (one mark at a time: a new one forgets the old)."""
        self._record = []

    def taken(self) -> str:
        """Everything read since the mark, which is forgotten. Empty without one."""
        text = "".join(self._record or ())
        self._record = None
        return text

    # Readers.

    def peek(self) -> Parse[str]:
        """The next character, not consumed; empty at the end."""
        while self._at == len(self._buffer):
            if self.ended:
                return ""
            yield None
        return self._buffer[self._at]

    def take(self) -> Parse[str]:
        """The next character; empty at the end."""
        char = yield from self.peek()
        self._advance(len(char))
        return char

    def literal(self, *tags: str) -> Parse[str]:
        """The longest of the tags that stands here, consumed; empty (nothing consumed) if none does."""
        while True:
            rest = self._buffer[self._at : self._at + max(map(len, tags))]
            self.looked += len(rest)
            if self.ended or not any(len(tag) > len(rest) and tag.startswith(rest) for tag in tags):
                found = max((tag for tag in tags if rest.startswith(tag)), key=len, default="")
                self._advance(len(found))
                return found
            yield None

    def run(self, accept: Callable[[str], bool], limit: int | None = None) -> Parse[str]:
        """The longest run of accepted characters, at most `limit` of them."""
        pieces: list[str] = []
        count = 0
        while limit is None or count < limit:
            end = self._at
            stop = len(self._buffer) if limit is None else min(len(self._buffer), end + limit - count)
            while end < stop and accept(self._buffer[end]):
                end += 1
            count += end - self._at
            pieces.append(self._advance(end - self._at))
            if end < len(self._buffer) or (yield from self.peek()) == "":
                break
        return "".join(pieces)

    def spaces(self) -> Parse[str]:
        """Whitespace, possibly none."""
        return (yield from self.run(SPACES.__contains__))

    def until(self, *tags: str, limit: int | None = None) -> Parse[tuple[str, str]]:
        """(text, tag): everything before the first tag, which is consumed too.

        The tag is empty when the text ended or more than `limit` characters went by without
        one; what was read is then the text.
        """
        pieces: list[str] = []
        count = 0
        while True:
            text, tag = self._cut(tags, None if limit is None else limit + 1 - count)
            pieces.append(text)
            count += len(text)
            if tag or (limit is not None and count > limit):
                return "".join(pieces), tag
            if self.ended:
                pieces.append(self.rest())
                return "".join(pieces), ""
            yield None

    def stream(self, say: Callable[[str], Event], *tags: str) -> Parse[str]:
        """Say everything before the first tag, which is consumed and returned; empty at the end.

        Without tags: say everything.
        """
        while True:
            text, tag = self._cut(tags, None)
            if text:
                yield say(text)
            if tag:
                return tag
            if self.ended:
                rest = self.rest()
                if rest:
                    yield say(rest)
                return ""
            yield None

    def scan(self, end_of: Callable[[str, int], int]) -> str:
        """What is there, up to the index `end_of(buffer, start)` finds, consumed at once."""
        end = end_of(self._buffer, self._at)
        return self._advance(end - self._at)

    def rest(self) -> str:
        """All that is there, consumed."""
        return self._advance(len(self._buffer) - self._at)

    # Inside.

    def _advance(self, count: int) -> str:
        text = self._buffer[self._at : self._at + count]
        self._at += count
        self.looked += count
        if self._record is not None and text:
            self._record.append(text)
        return text

    def _cut(self, tags: tuple[str, ...], limit: int | None) -> tuple[str, str]:
        """What surely comes before any tag, and the tag if one stands right after it.

        The first tag wins, among those at one place the longest. What may still become a tag
        that would win is left in the buffer.
        """
        buffer, at = self._buffer, self._at
        self.looked += (len(buffer) - at) * len(tags)
        found, tag = len(buffer), ""
        for candidate in tags:
            start = buffer.find(candidate, at, found + len(candidate))
            if start >= 0 and (start < found or (start == found and len(candidate) > len(tag))):
                found, tag = start, candidate
        kept = len(buffer) if self.ended else min(map(self._partial, tags), default=len(buffer))
        if kept <= found:  # something longer, or something before it, may yet be a tag
            found, tag = kept, ""
        if limit is not None and found - at >= limit:
            found, tag = at + limit, ""
        text = self._advance(found - at)
        self._advance(len(tag))
        return text, tag

    def _partial(self, tag: str) -> int:
        """Where the buffer's end may be the beginning of the tag; the buffer's length if nowhere."""
        buffer = self._buffer
        start = max(self._at, len(buffer) - len(tag) + 1)
        while (start := buffer.find(tag[0], start)) >= 0:
            if tag.startswith(buffer[start:]):
                return start
            start += 1
        return len(buffer)
