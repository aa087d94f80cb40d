"""llama-index: OpenAILike completes, chats, streams, calls a tool, fills a class, remembers. argv: the server."""

import asyncio
import sys

from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    name: str
    capital: bool


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"Sunny in {city}, 24 degrees."


def model(**more) -> OpenAILike:
    settings = {"is_chat_model": True, "temperature": 0, "max_tokens": 40, "context_window": 2048, **more}
    return OpenAILike(
        model="SmolLM2-135M-Instruct", api_base=f"{sys.argv[1]}/v1", api_key="none", max_retries=0, **settings
    )


base = model(is_chat_model=False, max_tokens=4)
assert "Paris" in base.complete("The capital of France is").text
assert "Paris" in "".join(part.delta for part in base.stream_complete("The capital of France is"))

chat = model()
talk = [ChatMessage(role="user", content="What is the capital of France?")]
first = chat.chat(talk)
assert "Paris" in first.message.content and first.raw.usage.completion_tokens > 0
assert "".join(part.delta or "" for part in chat.stream_chat(talk)) == first.message.content
assert asyncio.run(chat.achat(talk)).message.content == first.message.content

engine = SimpleChatEngine.from_defaults(llm=chat)
assert "Paris" in str(engine.chat("What is the capital of France?"))
assert str(engine.chat("Name its river.")) and len(engine.chat_history) == 4

caller = model(is_function_calling_model=True, max_tokens=80)
tool = FunctionTool.from_defaults(get_weather)
asked = "What is the weather in Rome?"
called = caller.chat_with_tools([tool], user_msg=asked, tool_required=True)
(call, *_) = caller.get_tool_calls_from_response(called)
assert call.tool_name == "get_weather" and isinstance(call.tool_kwargs["city"], str)
result = tool(**call.tool_kwargs)
history = [
    ChatMessage(role="user", content=asked),
    called.message,
    ChatMessage(role="tool", content=str(result), additional_kwargs={"tool_call_id": call.tool_id}),
]
assert caller.chat(history).message.content

prompt = PromptTemplate("Describe the city {name}.")
for structured in (caller, model(should_use_structured_outputs=True, max_tokens=80)):
    city = structured.structured_predict(City, prompt, name="Paris")
    assert isinstance(city, City) and city.name, city
print("llama-index:", first.message.content)
