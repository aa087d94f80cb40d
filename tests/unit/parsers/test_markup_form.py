"""Whatever a form of markup arguments lets through is read as arguments that fit the tool's schema."""

from __future__ import annotations

import json
import random

import pytest

from octavo.parsers.machine import Tool, ToolChoice
from tests.unit.grammar.small import allowed, fits, matcher
from tests.unit.parsers.driving import maker, run, shown

QWEN = "<tool_call>\n<function={}>{}\n</function>\n</tool_call>"
GLM = "<tool_call>{}{}\n</tool_call>"
LAYOUT = {
    "qwen3_coder": (QWEN, "\n<parameter={}>\n{}\n</parameter>"),
    "glm45": (GLM, "\n<arg_key>{}</arg_key>\n<arg_value>{}</arg_value>"),
}
PERHAPS = {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}
POINT = {
    "type": "object",
    "properties": {"x": {"type": "number", "minimum": 0}, "way": {"enum": ["n", "s"]}},
    "required": ["x"],
    "additionalProperties": False,
}
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "where"},
        "days": {"type": "integer", "minimum": 1, "maximum": 16},
        "unit": {"type": "string", "enum": ["C", "F", "K\nelvin"]},
        "note": PERHAPS,
        "loud": {"type": "boolean"},
        "at": {"type": "array", "items": POINT, "maxItems": 2},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOLS = (Tool("weather", SCHEMA), Tool("weather_now", {"type": "object", "properties": {}}), Tool("free"))


def written(name: str, tool: str, **values: str) -> str:
    call, one = LAYOUT[name]
    return call.format(tool, "".join(one.format(key, value) for key, value in values.items()))


def grammar(name: str, mode: str, tools=TOOLS):
    spec = maker(name)().constraint(tools, ToolChoice(mode))
    assert spec is not None
    return matcher(spec.kind, spec.text)


GOOD = {
    "city": "Rome <b>\n</parameter",
    "days": "16",
    "unit": "K\nelvin",
    "note": "null",
    "loud": "true",
    "at": '[{"x": 1.5, "way": "n"}]',
}


@pytest.mark.parametrize("name", LAYOUT)
def test_what_fits_and_what_does_not(name):
    free, must = grammar(name, "auto"), grammar(name, "required")
    call = written(name, "weather", **GOOD)
    few = written(name, "weather", city="", unit="C")
    for text in (call, few, written(name, "weather_now"), f"{call}\n{few}"):
        assert fits(must, text), text
        assert fits(free, f"I look.\n{text}"), text
        arguments = [
            one for one in shown(run(maker(name, definitions=TOOLS)(), [text])) if isinstance(one, tuple)
        ]
        assert len(arguments) == text.count("<tool_call>")
    assert fits(free, "only <b>words</b>") and not fits(must, "only words")
    for wrong in (
        {"unit": "C"},
        {"city": "a", "unit": "X"},
        {"city": "a", "days": "17", "unit": "C"},
        {"city": "a", "days": "few", "unit": "C"},
        {"city": "a", "unit": "C", "at": '[{"way": "n"}]'},
        {"city": "a", "unit": "C", "other": "1"},
    ):
        for one in (must, free):
            assert not fits(one, written(name, "weather", **wrong)), wrong
    assert not fits(must, written(name, "nobody")) and not fits(free, written(name, "nobody"))
    anything = written(name, "free", what="ever")
    assert fits(free, anything)


def walk(one, rng: random.Random, ends: tuple[str, ...]) -> str:
    """A random output, byte by byte; now and then what could end the part it is in."""
    said = bytearray()
    while not (one.may_end and (len(said) > 2000 or rng.random() < 0.05)):
        end = rng.choice(ends).encode()
        fresh = one.copy()
        if rng.random() < 0.3 and all(fresh.accept(byte) for byte in end):
            taken = end
        else:
            bytes_now = sorted(token for token in allowed(one) if token < 256)
            plain = [byte for byte in bytes_now if 32 <= byte < 127 or byte == 10] or bytes_now
            taken = bytes([rng.choice(plain)])
        assert all(one.accept(byte) for byte in taken)
        said += taken
    return said.decode(errors="replace")


@pytest.mark.parametrize("name", LAYOUT)
def test_random_outputs_are_read_as_they_should_be(name):
    rng = random.Random(7)
    ends = (
        "\n</parameter>",
        "</parameter>",
        "</arg_value>",
        "\n</function>\n</tool_call>",
        "null",
        "</",
        "\n",
    )
    strict = json.dumps(SCHEMA)
    whole, must = matcher("json", strict), grammar(name, "required", TOOLS[:2])
    calls = 0
    for _ in range(40):
        text = walk(must.copy(), rng, ends)
        for tool, *rest in shown(run(maker(name, definitions=TOOLS)(), [text])):
            calls += 1
            assert tool in ("weather", "weather_now") and len(rest) == 1 and isinstance(rest[0], dict), text
            if tool == "weather":
                assert fits(whole, json.dumps(in_order(rest[0]))), (text, rest[0])
            else:
                assert rest[0] == {}
    assert calls >= 40


def in_order(arguments: dict) -> dict:
    """As JSON under a schema is written."""
    assert arguments.keys() <= SCHEMA["properties"].keys()
    return {key: arguments[key] for key in SCHEMA["properties"] if key in arguments}


@pytest.mark.parametrize("name", LAYOUT)
@pytest.mark.parametrize(
    "parameter",
    [
        {"type": "string", "pattern": "a+"},
        {"type": "string", "maxLength": 5},
        {"type": "string", "enum": ["a<b"]},
        {"type": "string", "enum": [""]},
        {"type": "string", "enum": []},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array"},
        {"type": "object"},
        {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False},
        {"$ref": "#/$defs/x"},
        {"anyOf": [{"type": "string", "maxLength": 2}, {"type": "null"}]},
        True,
    ],
)
def test_what_has_no_form_is_free_or_written_as_json(name, parameter):
    tools = (Tool("f", {"type": "object", "properties": {"a": parameter}, "required": ["a"]}),)
    assert maker(name)().constraint(tools, ToolChoice("required")) is None
    assert fits(grammar(name, "auto", tools), written(name, "f", a="aaaaaaaaa"))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "string"}}, "minProperties": 1},
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["b"]},
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": 5},
        {"type": "object", "properties": 5},
        {"type": "object", "properties": {"a>b": {"type": "string"}}},
        {"type": "object", "properties": {" a": {"type": "string"}}},
        {"type": "object", "properties": {"": {"type": "string"}}},
    ],
)
def test_tools_without_a_form(schema):
    for name in LAYOUT:
        assert maker(name)().constraint((Tool("f", schema),), ToolChoice("required")) is None


def test_untyped_parameters_are_what_the_format_takes_them_for():
    """Qwen's are text whatever stands there; GLM's are JSON where they can be."""
    tools = (Tool("f", {"type": "object", "properties": {"a": {"const": 5}}, "required": ["a"]}),)
    assert maker("qwen3_coder")().constraint(tools, ToolChoice("required")) is None
    assert fits(grammar("glm45", "required", tools), written("glm45", "f", a="5"))
    anything = (Tool("f", {"type": "object", "properties": {"a": {}}, "required": ["a"]}),)
    assert fits(grammar("qwen3_coder", "required", anything), written("qwen3_coder", "f", a="5 or so"))
