"""Structural tags, old form and new: free text, then a part with a form."""

from __future__ import annotations

import json

import pytest

from octavo.core.request import GrammarSpec
from octavo.grammar.guidance import problem
from tests.unit.grammar.small import SPECIAL, allowed, fits, matcher

CITY = {
    "type": "object",
    "properties": {"c": {"enum": ["Rome", "Oslo"]}},
    "required": ["c"],
    "additionalProperties": False,
}


def tag(name: str, begin: str = "<call>") -> dict[str, object]:
    content = {"type": "json_schema", "json_schema": CITY}
    return {"type": "tag", "begin": f"{begin}{name}:", "content": content, "end": "</call>"}


def triggered(**more: object) -> str:
    shape = {"type": "triggered_tags", "triggers": ["<call>"], "tags": [tag("go"), tag("see")], **more}
    return json.dumps({"type": "structural_tag", "format": shape})


def separated(**more: object) -> str:
    shape = {"type": "tags_with_separator", "tags": [tag("go"), tag("see")], "separator": "; "}
    return json.dumps({"format": {**shape, "at_least_one": True, **more}})


OLD = json.dumps(
    {
        "structures": [{"begin": "<call>go:", "schema": CITY, "end": "</call>"}],
        "triggers": ["<call>"],
    }
)
GO, SEE = '<call>go:{"c": "Rome"}</call>', '<call>see:{"c": "Oslo"}</call>'
CASES = [
    (triggered(), "", True),
    (triggered(), "just text", True),
    (triggered(), f"I will.\n{GO} and {SEE} done", True),
    (triggered(), 'so <call>go:{"c": "Bonn"}</call>', False),
    (triggered(), "so <call>fly:", False),
    (triggered(at_least_one=True), GO, True),
    (triggered(at_least_one=True), f"{GO}{SEE}", True),
    (triggered(at_least_one=True), "text", False),
    (triggered(at_least_one=True, stop_after_first=True), GO, True),
    (triggered(at_least_one=True, stop_after_first=True), GO + SEE, False),
    (triggered(stop_after_first=True), "a" + GO, True),
    (triggered(stop_after_first=True), "a" + GO + "b", False),
    (separated(), f"{GO}; {SEE}; {GO}", True),
    (separated(), f"{GO}{SEE}", False),
    (separated(), f"{GO} and", False),
    (separated(), "", False),
    (separated(at_least_one=False), "", True),
    (separated(stop_after_first=True), GO, True),
    (separated(stop_after_first=True), f"{GO}; {SEE}", False),
    (OLD, f"well {GO}", True),
    (OLD, "well <call>see:", False),
]


@pytest.mark.parametrize(("document", "output", "good"), CASES)
def test_tags(document, output, good):
    assert problem(GrammarSpec("structural_tag", document)) is None
    assert fits(matcher("structural_tag", document), output) is good


def of(node: dict[str, object]) -> str:
    return json.dumps({"format": node})


NODES = [
    ({"type": "const_string", "value": 'a "b"\n'}, 'a "b"\n', "a"),
    ({"type": "regex", "pattern": "a/b[0-9]"}, "a/b7", "a/b"),
    ({"type": "or", "elements": [{"type": "const_string", "value": v} for v in "xy"]}, "y", "xy"),
    ({"type": "sequence", "elements": [{"type": "const_string", "value": v} for v in "xy"]}, "xy", "x"),
    ({"type": "tag", "begin": "<t>", "content": {"type": "any_text"}, "end": "</t>"}, "<t>a<b\n</t>", "<t>a"),
]


@pytest.mark.parametrize(("node", "good", "bad"), NODES)
def test_nodes(node, good, bad):
    one = matcher("structural_tag", of(node))
    assert fits(one, good) and not fits(one, bad)


def test_special_tokens_are_tokens_not_text():
    node = {"type": "tag", "begin": "<tool>", "content": {"type": "regex", "pattern": "a+"}, "end": "<tool>"}
    one = matcher("structural_tag", of(node))
    assert allowed(one) == {SPECIAL}
    assert one.accept(SPECIAL) and one.accept(ord("a"))
    assert allowed(one) == {SPECIAL, ord("a")}


def test_a_special_trigger_may_follow_any_text():
    tags = [{"type": "tag", "begin": "<tool>x", "content": {"type": "regex", "pattern": "[0-9]"}, "end": "!"}]
    one = matcher("structural_tag", of({"type": "triggered_tags", "triggers": ["<tool>"], "tags": tags}))
    for token in [*b"so ", SPECIAL, *b"x1"]:
        assert one.accept(token)
    assert allowed(one) == {ord("!")}


BROKEN = [
    ({"type": "magic"}, "magic"),
    ({"type": "tag", "begin": "a", "content": {"type": "any_text"}}, "end"),
    ({"type": "triggered_tags", "triggers": ["<x>"], "tags": [tag("go")]}, "no trigger"),
    ({"type": "triggered_tags", "triggers": [], "tags": [tag("go")]}, "triggers"),
    ({"type": "const_string", "value": 3}, "value"),
    ({"type": "json_schema", "json_schema": {"not": {}}}, "not"),
]


@pytest.mark.parametrize(("node", "says"), BROKEN)
def test_broken_tags_say_why(node, says):
    why = problem(GrammarSpec("structural_tag", of(node)))
    assert why is not None and says in why


def test_the_parsers_constraints_can_be_used():
    from octavo.parsers.constraint import structural_tag
    from octavo.parsers.machine import Tool, ToolChoice

    tools = [Tool(name="go", parameters=CITY)]
    spec = structural_tag(
        tools, ToolChoice(mode="required"), "<call>", lambda name: (f"<call>{name}:", "</call>")
    )
    assert spec is not None and problem(spec) is None
    assert fits(matcher(spec.kind, spec.text), GO)
