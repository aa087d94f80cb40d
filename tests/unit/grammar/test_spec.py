"""Reading what a request asks for, and refusing what cannot be."""

from __future__ import annotations

import json

import pytest

from octavo.core.errors import UserError
from octavo.core.request import GrammarSpec
from octavo.grammar.check import Checker
from octavo.grammar.spec import DEEPEST, MOST_CHOICES, read


def nested(depth: int) -> dict[str, object]:
    schema: dict[str, object] = {"type": "integer"}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


GOOD = [
    ("json", {"type": "integer"}, "json", '{"type":"integer"}'),
    ("json", ' {"type": "integer"}', "json", '{"type":"integer"}'),
    ("json_object", True, "json", '{"type":"object"}'),
    ("regex", "a+", "regex", "a+"),
    ("choice", ["é", "b", "é"], "choice", '["é","b"]'),
    ("grammar", "start: A", "lark", "start: A"),
    ("grammar", "root ::= A", "ebnf", "root ::= A"),
    ("structural_tag", '{"format": {}}', "structural_tag", '{"format":{}}'),
    ("json", nested(DEEPEST - 3), "json", json.dumps(nested(DEEPEST - 3), separators=(",", ":"))),
]


@pytest.mark.parametrize(("kind", "value", "made", "text"), GOOD)
def test_good(kind, value, made, text):
    assert read(kind, value, most=1000) == GrammarSpec(made, text)


BAD = [
    ("json", "{", "not valid JSON"),
    ("json", "[]", "not a JSON object"),
    ("json", 3, "not a JSON object"),
    ("json", nested(DEEPEST + 1), f"{DEEPEST} levels"),
    ("json", "[" * 5000, "not"),
    ("json", {"const": "x" * 2000}, "limit is 1000"),
    ("json", {"const": float("nan")}, "JSON has not"),
    ("json", {"const": "\ud800"}, "surrogate"),
    ("regex", "", "empty"),
    ("regex", 3, "not text"),
    ("regex", "x" * 1001, "limit is 1000"),
    ("choice", "yes", "list"),
    ("choice", [], "list"),
    ("choice", ["a", ""], "empty"),
    ("choice", ["a", 1], "not text"),
    ("choice", ["a"] * (MOST_CHOICES + 1), str(MOST_CHOICES)),
    ("grammar", " ", "empty"),
    ("json_object", 1, "true"),
    ("structural_tag", "x", "not valid JSON"),
]


@pytest.mark.parametrize(("kind", "value", "says"), BAD)
def test_bad(kind, value, says):
    with pytest.raises(UserError, match=says) as caught:
        read(kind, value, most=1000)
    assert caught.value.field == "structured_outputs" and kind in caught.value.message and caught.value.hint


def test_closing_objects():
    schema = {
        "properties": {"a": {"properties": {"b": {}}}, "c": {"properties": {}, "additionalProperties": True}},
        "enum": [{"properties": {}}],
    }
    closed = json.loads(read("json", schema, most=1000, closed=True).text)
    assert closed["additionalProperties"] is False
    assert closed["properties"]["a"]["additionalProperties"] is False
    assert closed["properties"]["c"]["additionalProperties"] is True
    assert closed["enum"] == schema["enum"]


def test_keywords_that_cannot_be_enforced_are_named():
    spec = read("json", {"uniqueItems": True, "contains": {}, "type": "array"}, most=1000)
    with pytest.raises(UserError, match="uses contains, uniqueItems, which cannot be enforced") as caught:
        Checker(4).check(spec)
    assert caught.value.field == "structured_outputs"


def test_the_librarys_own_key_is_refused():
    with pytest.raises(UserError, match="x-guidance"):
        Checker(4).check(read("json", {"type": "string", "x-guidance": {"lenient": True}}, most=1000))


def test_good_grammars_are_remembered_and_only_so_many():
    asked: list[GrammarSpec] = []

    def problem(spec: GrammarSpec) -> str | None:
        asked.append(spec)
        return "bad" if spec.text == "bad" else None

    checker = Checker(2, problem)
    a, b, c, bad = (GrammarSpec("regex", text) for text in ("a", "b", "c", "bad"))
    for spec in (a, b, a, c, a, b):
        assert checker.check(spec) is spec
    assert asked == [a, b, c, b]
    for _ in range(2):
        with pytest.raises(UserError):
            checker.check(bad)
    assert asked[4:] == [bad, bad]
