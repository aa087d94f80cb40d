"""The cursor: tags that overlap, limits, and what it gives back."""

from __future__ import annotations

from itertools import combinations_with_replacement

import pytest

from octavo.parsers.events import Text
from octavo.parsers.splitter import Splitter


def drive(reader, parts):
    """The reader's result over text that comes in parts, what it said, and what it left."""
    s = Splitter()
    reading = reader(s)
    said = []
    waiting = iter(parts)
    try:
        while True:
            event = next(reading)
            if event is not None:
                said.append(event.text)
                continue
            part = next(waiting, None)
            if part is None:
                assert not s.ended
                s.ended = True
            else:
                s.add(part)
    except StopIteration as done:
        return done.value, "".join(said), s.rest() + "".join(waiting)


READERS = {
    "literal": (lambda s: s.literal("ab", "abc", "b"), ["", "a", "ab", "abc", "abd", "bab", "c", "abcabc"]),
    "until": (lambda s: s.until("abc", "b", "cc"), ["", "xabcx", "xabx", "ab", "aab", "ccb", "xacc", "xxa", "xxab"]),
    "stream": (lambda s: s.stream(Text, "\n</p>", "</p>", "<"), ["a\n</p>b", "a</p>", "a\n<", "\n\n</p>", "a\n</", "x"]),
    "limit": (lambda s: s.until("ab", limit=3), ["xxxab", "xxxxab", "xxx", "xxxx", "ab", "xxa", "xxxa", "xxxxx"]),
    "run": (lambda s: s.run(str.isalpha, 3), ["", "ab1", "abc", "abcd", "1", "ab"]),
    "spaces": (lambda s: s.spaces(), ["", " \n\tx", "x", "  "]),
    "take": (lambda s: s.take(), ["", "a", "ab"]),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_no_reader_cares_how_text_was_cut(name):
    reader, texts = READERS[name]
    for text in texts:
        want = drive(reader, [text])
        for i, j in combinations_with_replacement(range(len(text) + 1), 2):
            assert drive(reader, [text[:i], text[i:j], text[j:]]) == want
        assert drive(reader, list(text)) == want


def test_the_first_tag_wins_and_among_equals_the_longest():
    assert drive(READERS["literal"][0], ["abcd"])[0] == "abc"
    assert drive(READERS["literal"][0], ["abd"])[0] == "ab"
    assert drive(READERS["until"][0], ["xabcx"])[0] == ("x", "abc")
    assert drive(READERS["until"][0], ["xabx"])[0] == ("xa", "b")
    assert drive(READERS["stream"][0], ["a\n</p>b"]) == ("\n</p>", "a", "b")


def test_a_limit_counts_the_text_before_the_tag():
    assert drive(READERS["limit"][0], ["xxxab"])[0] == ("xxx", "ab")
    assert drive(READERS["limit"][0], ["xxxxab"]) == (("xxxx", ""), "", "ab")


def test_what_was_read_since_the_mark_comes_back():
    s = Splitter()
    s.add("one two three")
    s.ended = True
    drained = list(s.run(str.isalpha))
    s.mark()
    drained += [*s.spaces(), *s.run(str.isalpha)]
    assert (drained, s.taken(), s.taken(), s.rest()) == ([], " two", "", " three")
