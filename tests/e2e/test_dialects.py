"""The Responses and the Messages API with the default model and the clients they are made for."""

from __future__ import annotations

import json
from collections.abc import Iterator

import anthropic
import openai
import pydantic
import pytest
import requests

from tests.serving import Server

MODEL = "SmolLM2-135M-Instruct"
FRANCE = "What is the capital of France?"
GREEDY = {"extra_body": {"temperature": 0}}  # this client has no parameter for it
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}


class Capital(pydantic.BaseModel):
    city: str
    inhabitants: int


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0, timeout=300) as one:
        yield one


@pytest.fixture(scope="module")
def claude(server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="x", max_retries=0, timeout=300) as one:
        yield one


def test_a_conversation_of_responses(client):
    brief = "You answer in one short sentence."
    asked = {"model": MODEL, "instructions": brief, "temperature": 0, "max_output_tokens": 40}
    first = client.responses.create(input=FRANCE, **asked)
    assert "Paris" in first.output_text and first.status == "completed"
    assert client.responses.retrieve(first.id).output == first.output
    with client.responses.stream(input=FRANCE, **asked) as stream:
        said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert said == final.output_text == first.output_text
    assert final.usage.output_tokens == first.usage.output_tokens
    follow = client.responses.create(input="And of Italy?", previous_response_id=first.id, **asked)
    items = list(client.responses.input_items.list(follow.id, order="asc"))
    assert [item.role for item in items] == ["user", "assistant", "user"]
    assert follow.usage.input_tokens > first.usage.input_tokens
    assert follow.usage.input_tokens_details.cached_tokens > 0
    again = client.responses.create(input=[item.model_dump() for item in items], **asked)
    assert again.output_text == follow.output_text  # sent or remembered, it is one conversation
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_responses_in_a_form(client):
    parsed = client.responses.parse(
        model=MODEL, input=FRANCE, text_format=Capital, temperature=0, max_output_tokens=200
    )
    assert isinstance(parsed.output_parsed, Capital)


def test_a_tool_round_trip_of_responses(client):
    tool = {"type": "function", "name": "get_weather", "description": "Of a city.", "parameters": CITY}
    asked = {"model": MODEL, "tools": [tool], "temperature": 0, "max_output_tokens": 60}
    choice = {"type": "function", "name": "get_weather"}
    first = client.responses.create(input="What is the weather like in Rome?", tool_choice=choice, **asked)
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert json.loads(call.arguments)["city"] in CITY["properties"]["city"]["enum"]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": '{"sky": "sunny"}'}
    with client.responses.stream(
        input=[result], previous_response_id=first.id, tool_choice="none", **asked
    ) as stream:
        final = stream.get_final_response()
    assert final.output_text and final.output[0].type == "message"


def test_responses_in_the_background(client, server):
    late = client.responses.create(
        model=MODEL, input="Tell me a story.", background=True, max_output_tokens=2000,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    assert late.status == "queued"
    assert client.responses.cancel(late.id).status == "cancelled"
    assert client.responses.retrieve(late.id).status == "cancelled"
    short = client.responses.create(
        model=MODEL, input=FRANCE, background=True, stream=True, temperature=0, max_output_tokens=30
    )
    events = list(short)
    assert events[-1].type == "response.completed" and "Paris" in events[-1].response.output_text
    half = client.responses.retrieve(events[0].response.id, stream=True, starting_after=5)
    assert [event.sequence_number for event in half] == [event.sequence_number for event in events[6:]]
    assert server.rests()


def test_a_conversation_of_messages(claude, client):
    asked = {"model": MODEL, "max_tokens": 40, "system": "You answer in one short sentence.", **GREEDY}
    talk = [{"role": "user", "content": FRANCE}]
    whole = claude.messages.create(messages=talk, **asked)
    assert "Paris" in whole.content[0].text and whole.stop_reason == "end_turn"
    with claude.messages.stream(messages=talk, **asked) as stream:
        said = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert said == whole.content[0].text and final.stop_reason == "end_turn"
    assert final.usage.output_tokens == whole.usage.output_tokens
    count = claude.messages.count_tokens(model=MODEL, messages=talk, system=asked["system"]).input_tokens
    assert count == whole.usage.input_tokens + whole.usage.cache_read_input_tokens
    system = {"role": "system", "content": asked["system"]}
    chat = client.chat.completions.create(model=MODEL, messages=[system, *talk], temperature=0, max_tokens=40)
    assert chat.choices[0].message.content == whole.content[0].text  # one builder for all dialects
    assert chat.usage.prompt_tokens == count
    cut = claude.messages.create(
        messages=[*talk, {"role": "assistant", "content": "The capital"}], **{**asked, "max_tokens": 2}
    )
    assert cut.stop_reason == "max_tokens" and cut.content[0].text.startswith(" of")
    stopped = claude.messages.create(messages=talk, stop_sequences=["Paris"], **asked)
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "Paris")


def test_a_tool_round_trip_of_messages(claude):
    tool = {"name": "get_weather", "description": "Of a city.", "input_schema": CITY}
    asked = {"model": MODEL, "tools": [tool], "max_tokens": 60, **GREEDY}
    talk = [{"role": "user", "content": "What is the weather like in Rome?"}]
    choice = {"type": "tool", "name": "get_weather"}
    whole = claude.messages.create(messages=talk, tool_choice=choice, **asked)
    with claude.messages.stream(messages=talk, tool_choice=choice, **asked) as stream:
        final = stream.get_final_message()
    (call,) = [block for block in whole.content if block.type == "tool_use"]
    (same,) = [block for block in final.content if block.type == "tool_use"]
    assert call.input == same.input and call.input["city"] in CITY["properties"]["city"]["enum"]
    assert whole.stop_reason == final.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": '{"sky": "sunny"}'}
    talk += [
        {"role": "assistant", "content": [block.model_dump() for block in whole.content]},
        {"role": "user", "content": [result]},
    ]
    reply = claude.messages.create(messages=talk, tool_choice={"type": "none"}, **asked)
    assert reply.content[0].text


def test_errors_have_the_clients_classes(claude, client):
    with pytest.raises(anthropic.NotFoundError, match=MODEL):
        claude.messages.create(model="claude", max_tokens=5, messages=[{"role": "user", "content": "x"}])
    with pytest.raises(anthropic.BadRequestError, match="thinking"):
        claude.messages.create(
            model=MODEL, max_tokens=5000, messages=[{"role": "user", "content": "x"}],
            thinking={"type": "enabled", "budget_tokens": 2000},
        )  # fmt: skip
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=MODEL, input=[{"type": "web_search_call"}])
    assert caught.value.param == "input[0].type"
    with pytest.raises(openai.BadRequestError, match="Codestral") as caught:
        client.completions.create(model=MODEL, prompt="def f(", suffix="):", max_tokens=5)
    assert caught.value.param == "suffix"


def test_beams(client):
    asked = {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 6, "logprobs": 0}
    beams = client.completions.create(**asked, n=4, extra_body={"use_beam_search": True})
    assert len({choice.text for choice in beams.choices}) == 4
    assert any("Paris" in choice.text for choice in beams.choices)
    greedy = client.completions.create(**asked, temperature=0)
    sums = [sum(one.logprobs.token_logprobs) for one in (*beams.choices, *greedy.choices)]
    assert sums[0] >= sums[-1] - 1e-4
    stream = client.completions.create(**asked, n=4, stream=True, extra_body={"use_beam_search": True})
    said = dict.fromkeys(range(4), "")
    for chunk in stream:
        for choice in chunk.choices:
            said[choice.index] += choice.text
    assert list(said.values()) == [choice.text for choice in beams.choices]
    chat = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": FRANCE}], max_tokens=8, n=2,
        extra_body={"use_beam_search": True, "length_penalty": 2.0},
    )  # fmt: skip
    assert len(chat.choices) == 2 and "Paris" in chat.choices[0].message.content


def test_invocations(server):
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": FRANCE}],
        "temperature": 0,
        "max_tokens": 20,
    }
    reply = requests.post(f"{server.url}/invocations", json=body, timeout=300).json()
    assert "Paris" in reply["choices"][0]["message"]["content"]
    assert requests.get(f"{server.url}/ping", timeout=60).status_code == 200
