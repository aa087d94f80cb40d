"""The JSON-Schema-Test-Suite against grammars: what is accepted keeps invalid documents out, the rest is
refused by name."""

from __future__ import annotations

import json
import re

import pytest

from octavo.core.errors import UserError
from octavo.core.request import GrammarSpec
from octavo.grammar.check import Checker
from octavo.grammar.spec import read
from tests.suite import Case, load
from tests.unit.grammar.small import fits, matcher

# \S of a JSON schema leaves out U+FEFF, which Unicode does not count among blanks
KNOWN = {"ECMA 262 \\S matches everything but whitespace"}
# how a refusal speaks of a case whose keyword it does not name
OTHER = re.compile(
    r"Unsatisfiable|not disjoint|regex parse error|Unknown format|Failed to generate regex|not present"
)


@pytest.fixture(scope="module")
def sorted_cases() -> tuple[list[tuple[Case, GrammarSpec]], list[tuple[Case, str]]]:
    """Accepted with their specs, refused with their reasons."""
    checker, accepted, refused = Checker(1000), [], []
    for case in load():
        try:
            accepted.append((case, checker.check(read("json", case.schema, most=65536))))
        except UserError as error:
            refused.append((case, error.message))
    return accepted, refused


def test_no_invalid_document_fits(sorted_cases):
    accepted, _ = sorted_cases
    assert len(accepted) > 170
    fitting = total = 0
    for case, spec in accepted:
        one = matcher("json", spec.text)
        assert one.error is None
        for document in case.invalid:
            for text in (json.dumps(document), json.dumps(document, ensure_ascii=False)):
                assert not fits(one, text) or case.about in KNOWN, (case, text)
        total += len(case.valid)
        fitting += sum(fits(one, json.dumps(document, ensure_ascii=False)) for document in case.valid)
    assert fitting > 0.9 * total  # properties in another order than the schema's do not fit


def test_what_is_refused_is_named(sorted_cases):
    _, refused = sorted_cases
    assert len(refused) > 100
    for case, why in refused:
        keywords = set(re.findall(r'"([$a-zA-Z]+)":', json.dumps(case.schema)))
        assert any(word in why for word in keywords) or OTHER.search(why), (case.schema, why)
        assert "coerce_one_of" not in why


GAPS = [
    ({"minProperties": 2}, "minProperties"),
    ({"required": ["a"], "minProperties": 3}, "minProperties"),
    ({"const": "a\u0000b"}, "const"),
    ({"enum": [{"x": ["\u0001"]}]}, "enum"),
    ({"properties": {"a\u0002": {}}}, "properties"),
    ({"type": "string", "pattern": "^\\x03a$"}, "pattern"),
    ({"type": "string", "pattern": "^[a]\\u0003$"}, "pattern"),
    ({"type": "string", "pattern": "\u0003"}, "pattern"),
    ({"items": {"anyOf": [{"const": "\u001f"}]}}, "const"),
    ({"x-guidance": {}}, "x-guidance"),
]
FINE = [
    {"minProperties": 1},
    {"required": ["a"], "minProperties": 2},
    {
        "properties": {"a": {}, "b": {}},
        "required": ["a", "b"],
        "additionalProperties": False,
        "minProperties": 2,
    },
    {"type": "string", "pattern": "^[^\\x00-\\x1f]+$"},
    {"type": "string", "pattern": "^\\\\x03\\n\\t$"},
    {"description": "\u0003", "const": {"pattern": "\\x03", "minProperties": 9}},
]


@pytest.mark.parametrize(("schema", "name"), GAPS)
def test_what_would_go_unnoticed_is_refused(schema, name):
    with pytest.raises(UserError, match=name):
        Checker(4).check(read("json", schema, most=1000))
    if "x-guidance" not in schema:
        tag = {"format": {"type": "json_schema", "json_schema": schema}}
        with pytest.raises(UserError, match=name):
            Checker(4).check(read("structural_tag", tag, most=1000))


@pytest.mark.parametrize("schema", FINE)
def test_what_is_enforced_is_not_refused(schema):
    Checker(4).check(read("json", schema, most=1000))


def test_a_name_cannot_be_spelled_past_its_schema():
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "patternProperties": {"^b": {"type": "null"}},
    }
    one = matcher("json", json.dumps(schema))
    assert fits(one, '{"a": 1, "b": null, "c": "x"}')
    for text in ('{"\\u0061": "x"}', '{"a": 1, "\\u0061": "x"}', '{"a": 1, "a": "x"}', '{"\\u0062": 1}'):
        assert not fits(one, text), text
