"""JSON and Python values, and values typed by a schema."""

from __future__ import annotations

import json

import pytest

from octavo.parsers import pythonic, typed
from octavo.parsers.json_scan import MAX_DEPTH, Balance
from octavo.parsers.machine import Tool


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("{}x", 2),
        ('{"a": "}"} {', 10),
        ('{"a": "\\"}"}]', 12),
        ('[{"a": [1, {}]}],', 16),
        ('{"\\\\": 1}x', 9),
        ('{"é🦜": "]"}', 11),
    ],
)
def test_a_value_ends_at_its_own_bracket(text, length):
    balance = Balance()
    assert (balance.scan(text, 0), balance.done, balance.broken) == (length, True, False)
    by_letter = Balance()
    assert sum(by_letter.scan(c, 0) for c in text) == length and by_letter.done


def test_a_tag_outside_a_string_breaks_a_value():
    balance = Balance()
    assert balance.scan('{"a": "<b>", </tool_call>', 0) == 13
    assert balance.broken and not balance.done


def test_depth_is_bounded():
    balance = Balance()
    assert balance.scan("[" * 1000, 0) == MAX_DEPTH
    assert balance.broken
    assert pythonic.value_of("[" * 1000 + "]" * 1000) is None
    assert typed.convert("[" * 1000 + "]" * 1000, frozenset()) == json.dumps("[" * 1000 + "]" * 1000)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'a'", "a"), ('"a\'b"', "a'b"), ("''", ""), ("'''a\n'b'''", "a\n'b"), ("'\\n\\x41\\u00e9\\U0001f99c\\q\\''", "\nAé🦜\\q'"),
        ("'\\ud83e\\udd9c'", "🦜"), ("1", 1), ("-2.5", -2.5), ("+3", 3), ("1e3", 1000.0), (".5", 0.5), ("1_000", 1000),
        ("True", True), ("false", False), ("None", None), ("[]", []), ("()", []), ("(1,)", [1]), ("{}", {}),
        ("[1, 'a', [None]]", [1, "a", [None]]), ("{'a': {'b': (1, 2)}, 3: 4}", {"a": {"b": [1, 2]}, "3": 4}),
        ("{'a': 1,}", {"a": 1}), (" [ 1 , 2 ] ", [1, 2]),
    ],
)  # fmt: skip
def test_python_literals(text, value):
    result = pythonic.value_of(text)
    assert result is not None
    assert json.loads(result) == value


@pytest.mark.parametrize(
    "text",
    ["", "a", "'a", "1 + 1", "f()", "[1", "[1 2]", "{1}", "{'a'}", "inf", "nan", "1e999", "0x1f", "'\\x4'", "'\\ud83e'", "__import__('os')", "{[]: 1}", "9" * 5000, "'a' 'b'", "lambda: 1", "[*a]"],
)  # fmt: skip
def test_what_is_no_python_literal(text):
    assert pythonic.value_of(text) is None


@pytest.mark.parametrize(
    ("text", "types", "value"),
    [
        ("5", ["integer"], 5), ("5", ["number"], 5), ("5.5", ["integer"], "5.5"), ("5", ["string", "integer"], 5),
        ("5", ["boolean"], "5"), ("true", ["boolean"], True), ("True", ["boolean"], True), ("None", ["null"], None),
        ("null", ["string", "null"], None), ("x", ["string", "null"], "x"), (' {"a": 1} ', ["object"], {"a": 1}),
        ("{'a': 1}", ["object"], {"a": 1}), ("[1]", ["object"], "[1]"), ("NaN", [], "NaN"), ("x y", [], "x y"),
        ("1" * 5000, [], "1" * 5000), ("", [], ""), (" x y\n", [], " x y\n"), ("{bad", ["object"], "{bad"), ("[1]]", [], "[1]]"),
    ],
)  # fmt: skip
def test_text_is_typed_by_the_schema(text, types, value):
    assert json.loads(typed.convert(text, frozenset(types))) == value


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": "integer"}, {"integer"}),
        ({"type": ["string", "null"]}, {"string", "null"}),
        ({"enum": ["a", 1]}, {"string", "integer"}),
        ({"anyOf": [{"type": "array"}, {"oneOf": [{"type": "null"}]}]}, {"array", "null"}),
        ({"anyOf": 5, "type": 7}, set()),
        (None, set()),
        ({"$ref": "#/x"}, set()),
    ],
)
def test_types_of_a_parameter(schema, types):
    assert typed.types_of(Tool("f", {"properties": {"k": schema}}), "k") == types
    assert typed.types_of(None, "k") == typed.types_of(Tool("f", {"properties": []}), "k") == frozenset()
