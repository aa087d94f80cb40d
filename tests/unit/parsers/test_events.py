"""Merging and folding, and what the layout does to whitespace."""

from __future__ import annotations

import pytest

from octavo.parsers.events import Call, CallArguments, CallEnd, CallStart, Text, Thought, fold, merge
from octavo.parsers.layout import Layout

STREAM = [
    Thought("a"), Thought("b"), Text(""), Text("c"), CallStart(0, "f"), CallArguments(0, ""), CallArguments(0, "{"),
    CallArguments(0, "}"), CallEnd(0), CallStart(1, "g", "id"), CallArguments(1, "["), Text("d"), Text("e"),
]  # fmt: skip


def test_merge_joins_neighbours_only():
    assert merge(STREAM) == [
        Thought("ab"), Text("c"), CallStart(0, "f"), CallArguments(0, "{}"), CallEnd(0), CallStart(1, "g", "id"),
        CallArguments(1, "["), Text("de"),
    ]  # fmt: skip
    assert merge(merge(STREAM)) == merge(STREAM)
    assert merge([Text("a"), Thought("b"), Text("c")]) == [Text("a"), Thought("b"), Text("c")]
    assert merge([CallArguments(0, "a"), CallArguments(1, "b")]) == [
        CallArguments(0, "a"),
        CallArguments(1, "b"),
    ]


def test_fold_makes_the_whole_answer():
    folded = fold(STREAM)
    assert (folded.text, folded.thought) == ("cde", "ab")
    assert folded.calls == (Call("f", "{}"), Call("g", "[", "id", complete=False))
    assert fold([]) == fold([Text("")])


@pytest.mark.parametrize(
    ("events", "kept"),
    [
        ([Text(" a \n")], [Text(" a \n")]),
        ([Thought("\n a \n"), Text("\n\nb\n")], [Thought("a"), Text("b\n")]),
        ([Text("\n"), CallStart(0, "f"), CallEnd(0), Text("\n")], [CallStart(0, "f"), CallEnd(0)]),
        ([Text("a\n"), CallStart(0, "f"), Text(" \n"), CallEnd(0), Text(" b")], [Text("a"), CallStart(0, "f"), CallEnd(0), Text("\nb")]),
        ([Text("a"), CallEnd(0), Text("\n"), Text("\n"), CallEnd(1), Text("b")], [Text("a"), CallEnd(0), CallEnd(1), Text("\n\nb")]),
        ([Text("a"), Thought(" "), Text(" b")], [Text("a"), Text(" b")]),
    ],
)  # fmt: skip
def test_whitespace_that_touches_a_tag_is_layout(events, kept):
    layout = Layout()
    out = [e for event in events for e in layout.feed(event)]
    assert merge([*out, *layout.close()]) == merge(kept)
