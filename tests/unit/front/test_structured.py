"""StructuredOutputsParams: one form at a time, and what becomes of it."""

from __future__ import annotations

import json

import pytest

from octavo import SamplingParams, StructuredOutputsParams
from octavo.config.engine import EngineConfig
from octavo.config.grammar import GrammarConfig
from octavo.core.errors import UserError
from octavo.core.request import GrammarSpec
from octavo.front.structured import Grammars

BAD = [
    ({}, "nothing"),
    ({"json": {}, "regex": "a"}, "json and regex"),
    ({"json_object": False}, "nothing"),
    ({"regex": "a", "disable_any_whitespace": 1}, "disable_any_whitespace"),
    ({"regex": "a", "whitespace_pattern": "x" * 300}, "whitespace_pattern"),
    ({"xml": "a"}, "'xml'"),
    ("json", "not an object"),
]


@pytest.mark.parametrize(("given", "says"), BAD)
def test_bad_forms_are_refused(given, says):
    with pytest.raises(UserError, match=says):
        SamplingParams(structured_outputs=given)


def test_a_mapping_is_as_good_as_the_class():
    one = SamplingParams(structured_outputs={"choice": ["a"], "regex": None}).structured_outputs
    assert one == StructuredOutputsParams(choice=["a"])
    assert SamplingParams(structured_outputs=one).clone().structured_outputs == one


def spec(config: GrammarConfig | None = None, **asked: object) -> GrammarSpec:
    return Grammars(config or GrammarConfig()).spec(StructuredOutputsParams(**asked))


OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}}


def test_settings_hold_where_a_request_says_nothing():
    tight = GrammarConfig(disable_any_whitespace=True, disable_additional_properties=True)
    assert spec(json=OBJECT).whitespace is None
    assert spec(json=OBJECT, whitespace_pattern=" ?").whitespace == " ?"
    assert spec(tight, json=OBJECT).whitespace == ""
    assert json.loads(spec(tight, json=OBJECT).text)["additionalProperties"] is False
    assert spec(json=OBJECT, disable_any_whitespace=True).whitespace == ""


def test_limits_and_broken_grammars_name_the_field():
    for asked, says in (({"regex": "a" * 99}, "limit is 50"), ({"regex": "(a"}, "unclosed")):
        with pytest.raises(UserError, match=says) as caught:
            spec(GrammarConfig(max_grammar_bytes=50), **asked)
        assert caught.value.field == "structured_outputs"


def test_vllms_settings():
    config = EngineConfig.from_flat(
        {"structured_outputs_config": '{"backend": "guidance", "disable_any_whitespace": true}'}
    ).grammar
    assert (config.structured_outputs_backend, config.disable_any_whitespace) == ("guidance", True)
    assert EngineConfig.from_flat({"structured_outputs_config": {"disable_fallback": True}}).grammar == (
        GrammarConfig()
    )
    for broken, says in (("{", "JSON"), ({"backend": "outlines"}, "outlines"), ({"x": 1}, "'x'")):
        with pytest.raises(UserError, match=says):
            EngineConfig.from_flat({"structured_outputs_config": broken})
