"""Token ids to text, a few at a time. Knows nothing of stop strings or requests.

The text of a stream equals the text of the whole wherever it is cut, no character is ever cut,
and a token costs the same at any position.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from octavo.text.pieces import Pieces

_UTF8 = codecs.getincrementaldecoder("utf-8")
_CHARACTER = 4  # most tokens one character can be spread over
_REPLACEMENT = "\ufffd"


class Detokenizer(Protocol):
    """`feed` returns what is certain by now, `close` the rest (a character that never got whole
    becomes U+FFFD)."""

    def feed(self, ids: Iterable[int]) -> str: ...
    def close(self) -> str: ...


class ByteDetokenizer:
    """For vocabularies whose tokens are bytes.

    `before` are tokens already shown to the user: a character they left unfinished goes on here.
    `strip` drops one leading space, as SentencePiece does for a text that begins here.
    """

    def __init__(
        self, pieces: Pieces, hidden: frozenset[int], *, before: Sequence[int] = (), strip: bool = False
    ) -> None:
        self._pieces = pieces
        self._hidden = hidden
        self._decoder = _UTF8("replace")
        self._strip = strip
        for id in before[-_CHARACTER:]:
            self._decoder.decode(pieces[id])

    def feed(self, ids: Iterable[int]) -> str:
        pieces, hidden = self._pieces, self._hidden
        return self._begin(self._decoder.decode(b"".join(pieces[id] for id in ids if id not in hidden)))

    def close(self) -> str:
        return self._begin(self._decoder.decode(b"", final=True))

    def _begin(self, text: str) -> str:
        if self._strip and text:
            self._strip = False
            return text.removeprefix(" ")
        return text


class WindowDetokenizer:
    """For any other vocabulary: decodes a short window again and emits what is new.

    The window starts at a token whose text was out already, so that joints between tokens
    (spaces, "##") come out as they would in the whole.
    """

    def __init__(
        self, decode: Callable[[list[int]], str], hidden: frozenset[int], *, before: Sequence[int] = ()
    ) -> None:
        self._decode = decode
        self._hidden = hidden
        self._window = [id for id in before if id not in hidden][-_CHARACTER:]
        self._shown = len(self._window)  # tokens of the window whose text is out

    def feed(self, ids: Iterable[int]) -> str:
        return "".join(self._one(id) for id in ids if id not in self._hidden)

    def close(self) -> str:
        text = self._decode(self._window)[len(self._decode(self._window[: self._shown])) :]
        self._window, self._shown = [], 0
        return text

    def _one(self, id: int) -> str:
        self._window.append(id)
        old = self._decode(self._window[: self._shown])
        new = self._decode(self._window)
        waiting = len(self._window) - self._shown
        if waiting < _CHARACTER and (len(new) <= len(old) or new.endswith(_REPLACEMENT)):
            return ""
        self._window = self._window[self._shown :]
        self._shown = len(self._window)
        return new[len(old) :]
