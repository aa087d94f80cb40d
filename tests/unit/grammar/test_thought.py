"""Reasoning is free, and what comes after it is not."""

from __future__ import annotations

import pytest

from octavo.core.request import GrammarSpec
from octavo.grammar.thought import Thought, after_thought
from tests.unit.grammar.small import fits, matcher

TAG = '{"structures": [{"begin": "<f>", "schema": {"type": "integer"}, "end": "</f>"}], "triggers": ["<f>"]}'
SPECS = [
    (GrammarSpec("json", '{"type": "integer"}'), "12", "x"),
    (GrammarSpec("regex", "[ab]+"), "abba", "c"),
    (GrammarSpec("choice", '["yes", "no"]'), "no", "maybe"),
    (GrammarSpec("structural_tag", TAG), "so <f>12</f>", "<f>x</f>"),
]


@pytest.mark.parametrize("spec, good, bad", SPECS, ids=lambda one: getattr(one, "kind", None))
def test_a_thought_comes_first(spec, good, bad):
    free = "Is it <f? No: {1}\n\n"
    own = after_thought(spec, Thought("<think>", "</think>", inside=False))
    opened = after_thought(spec, Thought("<think>", "</think>", inside=True))
    one, two = matcher(own.kind, own.text), matcher(opened.kind, opened.text)
    assert fits(one, good) and not fits(one, bad)
    assert fits(one, f"<think>{free}</think>\n\n{good}") and not fits(one, f"<think>{free}</think>\n\n{bad}")
    assert fits(two, f"{free}</think>{good}") and not fits(two, f"{free}</think>{bad}")
    if spec.kind != "structural_tag":
        assert not fits(two, good)


def test_grammars_that_cannot_be_enclosed_stay_as_they_are():
    spec = GrammarSpec("lark", 'start: "a"')
    assert after_thought(spec, Thought("<think>", "</think>", inside=True)) is spec
