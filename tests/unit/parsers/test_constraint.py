"""Structural tags: what they begin with is what the parser reads as a call."""

from __future__ import annotations

import json

import pytest

from octavo.parsers.machine import ToolChoice
from tests.unit.grammar.small import fits, matcher
from tests.unit.parsers.driving import TOOLS, maker, run, shown

CONSTRAINED = ["hermes", "granite", "phi4_mini_json", "llama3_json", "mistral", "deepseek_v31", "gpt_oss"]
MARKUP = ["qwen3_coder", "glm45"]


@pytest.mark.parametrize("name", CONSTRAINED)
def test_a_constrained_answer_parses_as_the_call(name):
    spec = maker(name)().constraint(TOOLS, ToolChoice("required"))
    assert spec is not None and spec.kind == "structural_tag"
    shape = json.loads(spec.text)["format"]
    assert shape["at_least_one"] and not shape["stop_after_first"]
    assert [tag["content"]["json_schema"] for tag in shape["tags"]][-1] == {"type": "object"}
    texts = [tag["begin"] + '{"n": 1}' + tag["end"] for tag in shape["tags"]]
    for tool, text in zip(TOOLS, texts, strict=True):
        assert shown(run(maker(name)(), [text])) == [(tool.name, {"n": 1})]
    together = shape["separator"].join(texts)
    assert shown(run(maker(name)(), [together])) == [(tool.name, {"n": 1}) for tool in TOOLS]


def test_calls_of_kimi_are_numbered():
    spec = maker("kimi_k2")().constraint(TOOLS, ToolChoice("required"))
    must = matcher(spec.kind, spec.text)
    call = "<|tool_call_begin|>functions.{}:{}<|tool_call_argument_begin|>{}<|tool_call_end|>"
    text = call.format("get_weather", 0, '{"city": "Rome"}') + call.format("f", 12, "{}")
    assert fits(must, text)
    assert shown(run(maker("kimi_k2")(), [text])) == [("get_weather", {"city": "Rome"}), ("f", {})]
    for wrong in (
        ("get_weather", 0, '{"days": "x"}'),
        ("nobody", 0, "{}"),
        ("f", "x", "{}"),
        ("f", "", "{}"),
    ):
        assert not fits(must, call.format(*wrong))
    may = maker("kimi_k2")().constraint(TOOLS, ToolChoice("auto"))
    section = "Well.<|tool_calls_section_begin|>{}<|tool_calls_section_end|>"
    assert fits(matcher(may.kind, may.text), section.format(text))
    assert not fits(matcher(may.kind, may.text), section.format(call.format("f", 1, '{"n": "x"}')))


@pytest.mark.parametrize("name", [*CONSTRAINED, *MARKUP, "kimi_k2"])
def test_free_answers_are_constrained_from_the_trigger_on(name):
    spec = maker(name)().constraint(TOOLS, ToolChoice("auto"))
    assert spec is not None
    shape = json.loads(spec.text)["format"]
    assert not shape["at_least_one"]
    for tag in shape["tags"]:
        assert any(tag["begin"].startswith(trigger) for trigger in shape["triggers"])


def test_choice_decides_what_may_be_called():
    parser = maker("hermes")()
    assert parser.constraint(TOOLS, ToolChoice("none")) is None
    assert parser.constraint((), ToolChoice("auto")) is None
    assert parser.constraint(TOOLS, ToolChoice("named", "nobody")) is None
    named = parser.constraint(TOOLS, ToolChoice("named", "g", parallel=False))
    assert named is not None
    shape = json.loads(named.text)["format"]
    assert len(shape["tags"]) == 1 and shape["at_least_one"] and shape["stop_after_first"]
    auto = maker("hermes", "qwen3")().constraint(TOOLS, ToolChoice())
    assert auto is not None and not json.loads(auto.text)["format"]["at_least_one"]


def test_bare_python_offers_none():
    assert maker("pythonic")().constraint(TOOLS, ToolChoice("required")) is None
