"""Keeps text that users wrote from turning into special tokens. Knows nothing of templates.

Special strings in user text are broken by a key of random non-characters before a template sees
it. In the rendered text the whole ones are therefore the template's own; the key is taken out
of what lies between them, which is then encoded with special strings off.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tokenizers

from octavo.core.errors import UserError

_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # never assigned, by definition
_KEY_LENGTH = 12  # 60 random bits: cannot be guessed within a request
_DEEPEST = 64
# words a template may compare with, so they must stay as they are
_FIXED = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


class Span(NamedTuple):
    """A stretch of a rendered prompt: a special token of the template's own, or plain text."""

    text: str
    special: bool


class SpecialStrings:
    """The special strings of one vocabulary, prepared for searching. Made once."""

    def __init__(self, tokens: Iterable[tokenizers.AddedToken] = ()) -> None:
        self.tokens = {token.content: token for token in tokens if token.content}
        longest_first = sorted(self.tokens, key=len, reverse=True)
        # "$^" never matches: a vocabulary without special strings
        self.pattern = re.compile(
            "|".join(map(re.escape, longest_first)) or "(?!)"
        )  # nothing, not even nothing, matches that
        self.prefixes = {text[:cut] for text in self.tokens for cut in range(1, len(text))}
        self.suffixes = {text[cut:] for text in self.tokens for cut in range(1, len(text))}
        self.longest = max(map(len, self.tokens), default=0)

    def inside(self, text: str) -> bool:
        """Whether `text` is the middle of a special string, such as "end" of "<|end|>"."""
        return any(text in special for special in self.tokens)


class Guard:
    """One request's key. `protect` before rendering, `spans` after."""

    def __init__(self, specials: SpecialStrings, key: str | None = None) -> None:
        self._specials = specials
        self.key = key or "".join(secrets.choice(_NONCHARACTERS) for _ in range(_KEY_LENGTH))
        # a special string of one character cannot be broken: its code stands for it
        self._single = re.compile(f"{self.key}([0-9a-f]+);")

    def protect(self, value: Any, depth: int = 0) -> Any:
        """A copy of messages, tools or documents with every string made harmless."""
        if isinstance(value, str):
            return self.text(value)
        if depth > _DEEPEST:
            raise UserError(
                f"messages are nested deeper than {_DEEPEST} levels", hint="flatten them", field="messages"
            )
        if isinstance(value, Mapping):
            return {self._inner(str(key)): self._item(key, item, depth + 1) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [self.protect(item, depth + 1) for item in value]
        return value

    def _item(self, key: Any, value: Any, depth: int) -> Any:
        if isinstance(value, str) and key in ("role", "type"):
            return self._word(value)
        return self.protect(value, depth)

    def _word(self, word: str) -> str:
        """A role or type: templates put these between fixed strings, as in "<|" + role + "|>"."""
        if word in _FIXED or not self._specials.inside(word):
            return self._inner(word)
        return word[:1] + self.key + word[1:]

    def text(self, text: str) -> str:
        """Also breaks halves at both ends, which a neighbouring text could complete."""
        specials = self._specials
        lengths = range(1, min(specials.longest, len(text)) + 1)
        head = any(text[:n] in specials.suffixes for n in lengths)
        tail = any(text[-n:] in specials.prefixes for n in lengths)
        return (self.key if head else "") + self._inner(text) + (self.key if tail else "")

    def _inner(self, text: str) -> str:
        """Overlapping occurrences too: the search goes on one character after each find."""
        done, at = [], 0
        while (match := self._specials.pattern.search(text, at)) is not None:
            start = match.start()
            done += [text[at:start], self._broken(text[start], match[0])]
            at = start + 1
        return "".join([*done, text[at:]]) if done else text

    def _broken(self, first: str, special: str) -> str:
        return first + self.key if len(special) > 1 else f"{self.key}{ord(first):x};"

    def clean(self, text: str) -> str:
        """The text as its writer wrote it."""
        if self.key not in text:
            return text
        return self._single.sub(lambda match: chr(int(match[1], 16)), text).replace(self.key, "")

    def spans(self, rendered: str) -> Iterator[Span]:
        """Special tokens and the clean text between them, in order. Tokens that swallow the
        space beside them (lstrip, rstrip) do so here as well."""
        tokens, at, strip = self._specials.tokens, 0, False
        for match in self._specials.pattern.finditer(rendered):
            token = tokens[match[0]]
            yield from self._plain(rendered[at : match.start()], strip, token.lstrip)
            yield Span(match[0], True)
            at, strip = match.end(), token.rstrip
        yield from self._plain(rendered[at:], strip, False)

    def _plain(self, text: str, left: bool, right: bool) -> Iterator[Span]:
        text = self.clean(text)
        text = text.lstrip() if left else text
        text = text.rstrip() if right else text
        if text:
            yield Span(text, False)
