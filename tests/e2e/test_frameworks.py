"""Frameworks that applications are built with hold a conversation with the default model.

Some want other versions of openai and rich than the rest of the tests, so scripts/setup gives them an
environment of their own; each script of tests/e2e/frameworks runs there. LangChain and the official client run here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import openai
import pytest
from pydantic import BaseModel, Field

from tests.serving import Server

MODEL = "SmolLM2-135M-Instruct"
PYTHON = Path(sys.prefix) / "frameworks" / "bin" / "python"
SCRIPTS = Path(__file__).parent / "frameworks"
ALONE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HAYSTACK_TELEMETRY_ENABLED": "False"}  # ask nobody else
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
ROME = [{"role": "user", "content": "What is the weather in Rome?"}]


@pytest.mark.parametrize("name", ["litellm", "instructor", "haystack", "llama_index"])
def test_a_framework_holds_a_conversation(server: Server, name: str) -> None:
    assert PYTHON.exists(), "run `scripts/setup dev`: frameworks are missing"
    command = [PYTHON, SCRIPTS / f"{name}_talk.py", server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env={**os.environ, **ALONE})
    assert done.returncode == 0, done.stderr
    assert name.replace("_", "-") in done.stdout


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Paris", "Rome"]


class Pet(BaseModel):
    name: str = Field(max_length=20)
    legs: int = Field(ge=0, le=8)


@pytest.fixture
def client(server: Server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0, timeout=280) as one:
        yield one


def test_the_official_client_holds_a_conversation(client: openai.OpenAI) -> None:
    """Two turns, a tool described by a class, its result, and an answer as an object."""
    talk = list(FRANCE)
    asked = {"model": MODEL, "temperature": 0, "max_tokens": 60}
    first = client.chat.completions.create(messages=talk, **asked)
    assert "Paris" in first.choices[0].message.content
    talk += [first.choices[0].message, {"role": "user", "content": "What is the weather there?"}]
    tool = openai.pydantic_function_tool(Weather, name="get_weather")
    choice = {"type": "function", "function": {"name": "get_weather"}}
    called = client.chat.completions.parse(messages=talk, tools=[tool], tool_choice=choice, **asked)
    message = called.choices[0].message
    (call,) = message.tool_calls
    assert isinstance(call.function.parsed_arguments, Weather)
    talk += [message, {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 24 degrees."}]
    talk += [{"role": "user", "content": "My dog Rex has four legs. Describe him."}]
    whole = client.chat.completions.parse(messages=talk, response_format=Pet, **asked)
    assert isinstance(whole.choices[0].message.parsed, Pet)
    with client.chat.completions.stream(messages=talk, response_format=Pet, **asked) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.parsed == whole.choices[0].message.parsed
    assert final.choices[0].message.content == whole.choices[0].message.content
    text = client.completions.create(
        model=MODEL, prompt="The capital of France is", max_tokens=4, temperature=0
    )
    assert "Paris" in text.choices[0].text


def test_the_official_client_runs_a_batch(client: openai.OpenAI) -> None:
    rows = [
        {
            "custom_id": f"r{n}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": MODEL, "messages": FRANCE, "temperature": 0, "max_tokens": 20},
        }
        for n in range(3)
    ]
    rows[1]["body"] = {**rows[1]["body"], "temperature": 9}
    data = "\n".join(map(json.dumps, rows)).encode()
    file = client.files.create(
        file=("rows.jsonl", data), purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
    )
    assert file.expires_at == file.created_at + 7200
    assert client.files.wait_for_processing(file.id).status == "processed"
    assert client.files.content(file.id).content == data
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        batch = client.batches.retrieve(batch.id)
    assert batch.status == "completed" and batch.request_counts.completed == 2
    good = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [one["custom_id"] for one in good] == ["r0", "r2"]
    assert all("Paris" in one["response"]["body"]["choices"][0]["message"]["content"] for one in good)
    (bad,) = [json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines()]
    assert bad["custom_id"] == "r1" and bad["response"]["status_code"] == 400
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.BadRequestError, match="fine-tune"):
        client.files.create(file=("x", b"x"), purpose="fine-tune")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_langchain_holds_a_conversation(server: Server) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI

    @tool
    def get_weather(city: Literal["Paris", "Rome"]) -> str:
        """The weather of a city."""
        return f"Sunny in {city}, 24 degrees."

    model = ChatOpenAI(
        base_url=f"{server.url}/v1", api_key="x", model=MODEL, max_tokens=60, temperature=0, max_retries=0
    )
    talk = [HumanMessage(ROME[0]["content"])]
    bound = model.bind_tools([get_weather], tool_choice="get_weather")
    called = bound.invoke(talk)
    (call,) = called.tool_calls
    assert call["name"] == "get_weather" and called.usage_metadata["output_tokens"] > 0
    streamed = None
    for chunk in bound.stream(talk):
        streamed = chunk if streamed is None else streamed + chunk
    assert [one["args"] for one in streamed.tool_calls] == [call["args"]]
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    talk += [called, result]
    answer = model.bind_tools([get_weather], tool_choice="none").invoke(talk)
    assert answer.content and not answer.tool_calls
    talk += [answer, HumanMessage("My dog Rex has four legs. Describe him.")]
    for method in ("json_schema", "function_calling"):
        pet = model.with_structured_output(Pet, method=method, strict=True).invoke(talk)
        assert isinstance(pet, Pet), method
