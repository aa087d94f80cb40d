"""haystack: its OpenAI generators, alone and in a pipeline, streamed, with a tool, with a schema. argv: the server."""

import sys

from haystack import Pipeline
from haystack.components.builders import ChatPromptBuilder
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import Tool
from haystack.utils import Secret
from pydantic import BaseModel


class City(BaseModel):
    name: str
    capital: bool


def generator(**more):
    settings = {"temperature": 0, "max_tokens": 40, **more.pop("generation_kwargs", {})}
    return OpenAIChatGenerator(
        api_key=Secret.from_token("none"),
        model="SmolLM2-135M-Instruct",
        api_base_url=f"{sys.argv[1]}/v1",
        generation_kwargs=settings,
        **more,
    )


talk = [ChatMessage.from_user("What is the capital of France?")]
(first,) = generator().run(talk)["replies"]
assert "Paris" in first.text and first.meta["usage"]["completion_tokens"] > 0
talk += [first, ChatMessage.from_user("Name its river.")]
(second,) = generator().run(talk)["replies"]
heard: list[str] = []
(streamed,) = generator(streaming_callback=lambda chunk: heard.append(chunk.content)).run(talk)["replies"]
assert streamed.text == second.text == "".join(heard) and len(heard) > 2

weather = Tool(
    name="get_weather",
    description="The weather of a city.",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    function=lambda city: f"Sunny in {city}, 24 degrees.",
)
asked = [ChatMessage.from_user("What is the weather in Rome?")]
for extra in ({}, {"streaming_callback": lambda chunk: None}):
    forced = generator(tools=[weather], generation_kwargs={"tool_choice": "required"}, **extra)
    (called,) = forced.run(asked)["replies"]
    (call, *_) = called.tool_calls
    assert call.tool_name == "get_weather" and call.arguments["city"] in ("Paris", "Rome")
result = ChatMessage.from_tool(weather.invoke(**call.arguments), origin=call)
free = generator(tools=[weather], generation_kwargs={"tool_choice": "none"})
(answer,) = free.run([*asked, called, result])["replies"]
assert answer.text

shaped = generator(generation_kwargs={"response_format": City, "max_tokens": 80})
(city,) = shaped.run([ChatMessage.from_user("Describe Paris as JSON.")])["replies"]
assert City.model_validate_json(city.text)

pipeline = Pipeline()
template = [ChatMessage.from_user("What is the capital of {{ country }}?")]
pipeline.add_component("prompt", ChatPromptBuilder(template=template, required_variables=["country"]))
pipeline.add_component("model", generator())
pipeline.connect("prompt.prompt", "model.messages")
out = pipeline.run({"prompt": {"country": "France"}})
assert out["model"]["replies"][0].text == first.text
print("haystack:", first.text)
