"""The ways to ask for a form over HTTP; what the engine is told is read off the fake one."""

from __future__ import annotations

import json

import pytest

from octavo.core.request import Delta, Finish, GrammarSpec
from tests.server.asgi import ask, stream

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
GOOD = {
    CHAT: {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8},
    TEXT: {"model": "tiny", "prompt": "hello", "max_tokens": 8},
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
SPEC = GrammarSpec("json", json.dumps(SCHEMA, separators=(",", ":")))
TAG = {"type": "const_string", "value": "x"}
FORMS = [
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "json_object"}}, GrammarSpec("json", '{"type":"object"}')),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
            }
        },
        SPEC,
    ),
    (
        {"response_format": {"type": "structural_tag", "format": TAG}},
        GrammarSpec("structural_tag", json.dumps({"format": TAG}, separators=(",", ":"))),
    ),
    ({"structured_outputs": {"json": SCHEMA}}, SPEC),
    (
        {"structured_outputs": {"json": json.dumps(SCHEMA), "disable_any_whitespace": True}},
        GrammarSpec("json", SPEC.text, ""),
    ),
    ({"structured_outputs": {"choice": ["a", "b"]}}, GrammarSpec("choice", '["a","b"]')),
    ({"structured_outputs": {"grammar": 'root ::= "a"'}}, GrammarSpec("ebnf", 'root ::= "a"')),
    ({"guided_json": SCHEMA}, SPEC),
    ({"guided_regex": "[a-z]"}, GrammarSpec("regex", "[a-z]")),
    ({"guided_choice": ["a"]}, GrammarSpec("choice", '["a"]')),
    ({"guided_grammar": 'start: "a"'}, GrammarSpec("lark", 'start: "a"')),
]


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize(("form", "spec"), FORMS)
async def test_every_form_reaches_the_engine(house, path, form, spec, caplog):
    reply = await ask(house.app, "POST", path, {**GOOD[path], **form, "n": 2, "temperature": 1})
    assert reply.status == 200, reply.content
    assert [one.grammar for one in house.engine.submitted] == [spec, spec]
    assert ("deprecated" in caplog.text) is any(name.startswith("guided") for name in form)


async def test_a_constrained_answer_can_be_streamed(house):
    events = await stream(house.app, CHAT, {**GOOD[CHAT], "structured_outputs": {"json": SCHEMA}})
    assert events[-1] == "[DONE]" and house.engine.submitted[0].grammar == SPEC


async def test_a_compile_error_of_the_core_is_told(open_house):
    """What only the core can find out ends the request with its words."""
    house = open_house()
    why = {"finish": Finish.ERROR, "error": "too complex", "refused": True}
    house.engine._deltas = lambda one: iter([Delta(id=one.id, **why)])
    body = {**GOOD[CHAT], "structured_outputs": {"regex": "a"}}
    reply = await ask(house.app, "POST", CHAT, body)
    assert (reply.status, reply.error["message"]) == (400, "too complex")
    events = await stream(house.app, CHAT, body)
    assert events[-2]["error"]["code"] == 400


async def test_the_document_describes_the_forms(house):
    document = (await ask(house.app, "GET", "/openapi.json")).json()
    schemas = document["components"]["schemas"]
    assert set(schemas["ResponseFormat"]["properties"]["type"]["enum"]) == {
        "text", "json_object", "json_schema", "structural_tag"
    }  # fmt: skip
    assert "guided_json" in schemas["ChatRequest"]["properties"]
