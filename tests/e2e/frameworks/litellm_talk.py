"""litellm: two turns, a stream, a tool's call and result, a schema, text, asynchronous. argv: the server."""

import asyncio
import json
import sys

import litellm
from pydantic import BaseModel

MODEL = "openai/SmolLM2-135M-Instruct"
ASKED = {"model": MODEL, "api_base": f"{sys.argv[1]}/v1", "api_key": "none", "temperature": 0}


class City(BaseModel):
    name: str
    capital: bool


talk = [{"role": "user", "content": "What is the capital of France?"}]
reply = litellm.completion(messages=talk, max_tokens=30, **ASKED)
assert "Paris" in reply.choices[0].message.content and reply.usage.completion_tokens > 0
talk += [reply.choices[0].message.model_dump(), {"role": "user", "content": "Name its river."}]
second = litellm.completion(messages=talk, max_tokens=30, **ASKED)
assert second.choices[0].message.content and second.usage.prompt_tokens > reply.usage.prompt_tokens

chunks = list(litellm.completion(messages=talk, max_tokens=30, stream=True, **ASKED))
said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
assert said == second.choices[0].message.content
assert chunks[-1].choices[0].finish_reason == second.choices[0].finish_reason

tool = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
asked = [{"role": "user", "content": "What is the weather in Rome?"}]
forced = {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
called = litellm.completion(messages=asked, **forced, max_tokens=60, **ASKED)
message = called.choices[0].message
assert called.choices[0].finish_reason == "tool_calls"
call = message.tool_calls[0]
assert call.function.name == "get_weather" and json.loads(call.function.arguments)["city"] in (
    "Paris",
    "Rome",
)
asked += [message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 24 degrees."}]
answer = litellm.completion(messages=asked, tools=[tool], tool_choice="none", max_tokens=40, **ASKED)
assert answer.choices[0].message.content

shaped = litellm.completion(
    messages=[{"role": "user", "content": "Describe Paris as JSON."}],
    response_format=City,
    max_tokens=80,
    **ASKED,
)
assert City.model_validate_json(shaped.choices[0].message.content)

text = litellm.text_completion(
    **{**ASKED, "model": f"text-completion-{MODEL}"}, prompt="The capital of France is", max_tokens=4
)
assert "Paris" in text.choices[0].text


async def later() -> str:
    stream = await litellm.acompletion(messages=talk, max_tokens=30, stream=True, **ASKED)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


assert asyncio.run(later()) == said

try:
    litellm.completion(messages=talk, **{**ASKED, "temperature": 9})
except litellm.BadRequestError as error:
    assert "temperature" in str(error)
else:
    raise AssertionError("a temperature of 9 was accepted")
print("litellm:", reply.choices[0].message.content)
