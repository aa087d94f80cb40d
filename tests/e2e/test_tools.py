"""Tools with the default model, whose template does not know them: the official client and LangChain."""

from __future__ import annotations

import json

import jsonschema
import openai
import pytest

from tests.serving import Server

MODEL = "SmolLM2-135M-Instruct"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather.", "parameters": SCHEMA},
}
TALK = [{"role": "user", "content": "What will the weather be in Rome for the next 3 days?"}]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_required_call_fits_its_schema_and_streams_alike(server: Server, choice) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
        asked = {"model": MODEL, "tools": [TOOL], "temperature": 0, "max_tokens": 100}
        whole = client.chat.completions.create(messages=TALK, tool_choice=choice, **asked).choices[0]
        call = whole.message.tool_calls[0]
        jsonschema.validate(json.loads(call.function.arguments), SCHEMA)
        pieces = [
            piece
            for chunk in client.chat.completions.create(
                messages=TALK, tool_choice=choice, stream=True, **asked
            )
            for piece in chunk.choices[0].delta.tool_calls or ()
            if piece.index == 0
        ]
        assert "".join(piece.function.arguments for piece in pieces) == call.function.arguments
        assert pieces[0].function.name == "get_weather" and pieces[0].id
        result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 24 degrees."}
        answer = client.chat.completions.create(
            messages=[*TALK, whole.message.model_dump(exclude_none=True), result], tool_choice="none", **asked
        )
        assert answer.choices[0].message.content and answer.choices[0].finish_reason == "stop"


def test_langchain_binds_tools(server: Server) -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(base_url=f"{server.url}/v1", api_key="x", model=MODEL, max_tokens=100, temperature=0)
    (call, *_) = model.bind_tools([TOOL], tool_choice="any").invoke(TALK).tool_calls
    assert call["name"] == "get_weather"
    jsonschema.validate(call["args"], SCHEMA)
