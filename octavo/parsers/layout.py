"""Whitespace that touches a tag is layout, not content. Knows no format.

Models put line breaks around their tags (`<think>\\n...\\n</think>\\n\\n`, calls on lines of their
own). Nobody wants them in an answer, but words on both sides of a tag must not run together:
of the whitespace between two pieces of the same kind the first run stays, before the first
piece and after the last one it goes. Whitespace that touches no tag is kept as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from octavo.parsers.events import Event, Text, Thought
from octavo.parsers.splitter import SPACES


class _Flow:
    """One kind of text: holds whitespace back until it is known what follows."""

    def __init__(self, say: Callable[[str], Event], after_tag: bool) -> None:
        self._say = say
        self._gap: list[str] = []
        self._frozen = False  # the gap already holds a run from before the last tag
        self._after_tag = after_tag
        self._said = False

    def feed(self, text: str) -> Iterator[Event]:
        core = text.strip(SPACES)
        if not core:
            self._hold(text)
            return
        lead = text[: text.index(core[0])]
        self._hold(lead)
        if self._said or not self._after_tag:
            core = "".join(self._gap) + core
        self._gap = []
        self._said, self._after_tag, self._frozen = True, False, False
        self._hold(text[len(text.rstrip(SPACES)) :])
        yield self._say(core)

    def tag(self) -> None:
        """Something else came in between."""
        self._after_tag = True
        self._frozen = bool(self._gap)

    def close(self) -> Iterator[Event]:
        if self._gap and not self._after_tag:
            yield self._say("".join(self._gap))

    def _hold(self, spaces: str) -> None:
        if spaces and not self._frozen:
            self._gap.append(spaces)


class Layout:
    """Events in, events out, without the layout."""

    def __init__(self) -> None:
        self._text = _Flow(Text, after_tag=False)
        self._thought = _Flow(Thought, after_tag=True)

    def feed(self, event: Event) -> Iterator[Event]:
        if isinstance(event, Text):
            self._thought.tag()
            yield from self._text.feed(event.text)
        elif isinstance(event, Thought):
            self._text.tag()
            yield from self._thought.feed(event.text)
        else:
            self._text.tag()
            self._thought.tag()
            yield event

    def close(self) -> Iterator[Event]:
        yield from self._thought.close()
        yield from self._text.close()
