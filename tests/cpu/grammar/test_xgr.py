"""xgrammar behind the protocol: what it is let to do it does, the rest is refused by name."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest

from octavo.config.grammar import GrammarConfig
from octavo.core.errors import UserError
from octavo.core.request import GrammarSpec
from octavo.front.structured import Grammars, StructuredOutputsParams
from octavo.grammar import choose
from octavo.grammar.xgr import XGrammarBackend, XGrammarMatcher, problem
from octavo.grammar.xgr_schema import unheld
from octavo.parsers.machine import ToolChoice
from tests.e2e.schemas import WRITTEN, made
from tests.suite import load
from tests.unit.grammar.small import END, SPECIAL, VOCABULARY, allowed, fits
from tests.unit.parsers import test_markup_form as markup
from tests.unit.parsers.driving import maker

BACKEND = XGrammarBackend(VOCABULARY)
# \S there is of ASCII; $ref into "examples" is not found, which is an error of its own
KNOWN = {"ECMA 262 \\S matches everything but whitespace"}


def matcher(kind: str, text: str, whitespace: str | None = None) -> XGrammarMatcher:
    return BACKEND.compile(GrammarSpec(kind, text, whitespace))


def test_no_invalid_document_of_the_suite_fits():
    held = fitting = 0
    for case in load():
        text = json.dumps(case.schema)
        if problem(GrammarSpec("json", text)) is not None:
            continue
        held += 1
        one = matcher("json", text)
        for document in case.invalid:
            assert not fits(one, json.dumps(document, ensure_ascii=False)) or case.about in KNOWN, case
        fitting += any(fits(one, json.dumps(document, ensure_ascii=False)) for document in case.valid)
    assert held > 40 and fitting > 0.7 * held


@pytest.mark.parametrize("name", ["qwen3_coder", "glm45", "kimi_k2"])
def test_calls_are_held_as_by_guidance(name):
    """Where it reads them as a structural tag like any other."""
    for mode, tools in (("auto", markup.TOOLS), ("required", markup.TOOLS[:2])):
        spec = maker(name)().constraint(tools, ToolChoice(mode))
        assert problem(spec) is None
    if name in markup.LAYOUT:
        one = matcher(spec.kind, spec.text)
        assert fits(one, markup.written(name, "weather", **markup.GOOD))
        assert fits(one, markup.written(name, "weather_now"))
        assert not fits(one, markup.written(name, "weather", city="a", days="17", unit="C"))


def test_whatever_its_masks_allow_validates():
    rng = np.random.default_rng(2)
    ascii_only = [*range(128), *range(256, 256 + 5)]  # its bytes need not be UTF-8
    walked = 0
    for n, schema in enumerate([*WRITTEN, *made(200)]):
        if unheld(schema) is not None:
            continue
        one, ids = matcher("json", json.dumps(schema), "" if n % 2 else None), []
        while not one.may_end and len(ids) < 600:
            choices = sorted(allowed(one).intersection(ascii_only)) or sorted(allowed(one))
            assert choices and SPECIAL not in choices and END not in choices, "a dead end"
            ids.append(int(rng.choice(choices)))
            assert one.accept(ids[-1])
        if one.may_end:
            text = b"".join(VOCABULARY.tokens[id] for id in ids).decode()
            jsonschema.Draft202012Validator(schema).validate(json.loads(text))
            walked += 1
    assert walked > 80


FITS = [
    ("json", '{"type":"object"}', '{"a": [1]}', True),
    ("json", '{"type":"object"}', "[]", False),
    ("json", '{"type":"string","maxLength":3}', '"a\tb"', False),
    ("json", '{"type":"string","maxLength":3}', '"abcd"', False),
    ("regex", "[0-9]{3}", "123", True),
    ("choice", '["yes","no \\"so\\" é"]', 'no "so" é', True),
    ("ebnf", 'root ::= "a" [0-9]+', "a12", True),
    ("structural_tag", '{"structures":[{"begin":"<f>","schema":{"type":"integer"},"end":"</f>"}],"triggers":["<f>"]}', "so <f>12</f>", True),
    ("structural_tag", '{"structures":[{"begin":"<f>","schema":{"type":"integer"},"end":"</f>"}],"triggers":["<f>"]}', "<f>x</f>", False),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "output", "good"), FITS)
def test_what_fits(kind, text, output, good):
    assert fits(matcher(kind, text), output) is good


REFUSED = [
    ("json", '{"type":"integer","multipleOf":2}', "multipleOf"),
    ("json", '{"allOf":[{"type":"integer"},{"minimum":3}]}', "allOf"),
    ("json", '{"minimum":3}', "minimum"),
    ("json", '{"type":"string","pattern":"^a","maxLength":2}', "maxLength"),
    ("json", '{"type":"string","format":"hostname"}', "hostname"),
    ("json", '{"type":"object","required":["a"]}', "'a'"),
    ("json", '{"type":"object","properties":{"a":{}},"additionalProperties":{"type":"null"}}', "additionalProperties"),
    ("json", '{"items":{"$ref":"http://x/y"},"type":"array"}', r"\$ref"),
    ("json", '{"const":1,"type":"string"}', "type"),
    ("json", '{"x-guidance":{}}', "x-guidance"),
    ("json", '{"type":"string","pattern":"(a"}', "parenthesis"),
    ("regex", "[0-9", "Unclosed"),
    ("ebnf", "root ::= x", "not defined"),
    ("lark", 'start: "a"', "EBNF"),
    ("structural_tag", '{"format":{"type":"zzz"}}', "zzz"),
    ("structural_tag", '{"format":{"type":"json_schema","json_schema":{"multipleOf":2}}}', "multipleOf"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "says"), REFUSED)
def test_what_it_would_pass_over_is_refused_by_name(kind, text, says):
    with pytest.raises(UserError, match=says):
        matcher(kind, text)
    found = problem(GrammarSpec(kind, text))
    assert found is not None and ".cc" not in found


def test_white_space_can_be_forbidden_but_has_no_pattern():
    assert fits(matcher("json", '{"type":"array","items":{"type":"null"}}', ""), "[null,null]")
    assert not fits(matcher("json", '{"type":"array","items":{"type":"null"}}', ""), "[null, null]")
    with pytest.raises(UserError, match="white space"):
        matcher("json", "{}", " ?")


def test_steps_can_be_taken_back_and_copied():
    one = matcher("regex", "[ab]{4}")
    assert one.accept(ord("a")) and one.accept(ord("b")) and not one.accept(ord("c"))
    twin = one.copy()
    one.rollback(2)
    assert fits(one, "aaaa") and not fits(one, "aa") and fits(twin, "bb")
    assert not one.may_end and list(one.forced()) == [] and one.error is None


def test_the_front_asks_the_backend_that_will_compile():
    asked = StructuredOutputsParams(json={"type": "integer", "multipleOf": 2})
    Grammars(GrammarConfig()).spec(asked)
    with pytest.raises(UserError, match="multipleOf"):
        Grammars(GrammarConfig(structured_outputs_backend="xgrammar")).spec(asked)


def test_a_backend_that_is_missing_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(choose, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install"):
        Grammars(GrammarConfig(structured_outputs_backend="xgrammar"))
