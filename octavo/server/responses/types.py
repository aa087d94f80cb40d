"""The wire types of the Responses API. Types only; ranges are checked where requests are built."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from octavo.server.openai.types import StructuredOutputs, TokenLogprob

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]

# -- requests -----------------------------------------------------------------------------


class Tool(msgspec.Struct, frozen=True):
    """A function. `strict` holds its calls to the schema also where the model chooses by itself."""

    name: str
    type: Literal["function"] = "function"
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionChoice(msgspec.Struct, frozen=True, tag="function"):
    """The tool that must be called."""

    name: str


class AllowedTools(msgspec.Struct, frozen=True, tag="allowed_tools"):
    """Only these may be called."""

    tools: list[Tool]
    mode: Literal["auto", "required"] = "auto"


class PlainText(msgspec.Struct, frozen=True, tag="text"):
    pass


class JsonObject(msgspec.Struct, frozen=True, tag="json_object"):
    pass


class JsonSchema(msgspec.Struct, frozen=True, tag="json_schema"):
    schema: dict[str, Any]
    name: str = "answer"
    description: str | None = None
    strict: bool | None = None


class TextConfig(msgspec.Struct, frozen=True):
    format: PlainText | JsonObject | JsonSchema | None = None
    verbosity: Any = None


class ReasoningConfig(msgspec.Struct, frozen=True):
    """`summary` is accepted: reasoning is told as it is, not summed up."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: str | None = None


class ResponseStreamOptions(msgspec.Struct, frozen=True):
    include_obfuscation: bool | None = None


_ITEM = {
    "items": {
        "type": "object",
        "properties": {
            "type": {"enum": ["message", "function_call", "function_call_output", "reasoning"]},
            "role": {"type": "string"},
            "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]},
            "call_id": {"type": "string"},
            "name": {"type": "string"},
            "arguments": {"type": "string"},
            "output": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]},
        },
    }
}
Items = Annotated[list[dict[str, Any]], msgspec.Meta(extra_json_schema=_ITEM)]


class ResponseRequest(msgspec.Struct, kw_only=True):
    """POST /v1/responses."""

    model: str | None = None
    input: str | Items
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    include: list[str] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | AllowedTools | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    # beyond the dialect, as on chat completions
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    priority: int | None = None
    request_id: str | None = None
    cache_salt: str | None = None
    # known elsewhere, refused here unless neutral (see read.py)
    conversation: Any = None
    prompt: Any = None
    moderation: Any = None
    context_management: Any = None


class ResponseQuery(msgspec.Struct, frozen=True):
    """GET /v1/responses/{id}. `starting_after` is the number of the last event the client has."""

    stream: bool = False
    starting_after: Annotated[int, msgspec.Meta(ge=-1, le=1 << 40)] = -1


class ItemsQuery(msgspec.Struct, frozen=True):
    """GET /v1/responses/{id}/input_items. `after` is the id of the last item the client has."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None


# -- what an answer is made of ------------------------------------------------------------


class OutputText(msgspec.Struct, tag="output_text"):
    text: str = ""
    annotations: list[Any] = []
    logprobs: list[TokenLogprob] | UnsetType = UNSET


class ReasoningText(msgspec.Struct, tag="reasoning_text"):
    text: str = ""


class Message(msgspec.Struct, tag="message", kw_only=True):
    id: str
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[OutputText]
    role: Literal["assistant"] = "assistant"


class Reasoning(msgspec.Struct, tag="reasoning", kw_only=True):
    id: str
    status: Literal["in_progress", "completed", "incomplete"]
    summary: list[Any] = []
    content: list[ReasoningText]


class FunctionCall(msgspec.Struct, tag="function_call", kw_only=True):
    """`arguments` is JSON text."""

    id: str
    status: Literal["in_progress", "completed", "incomplete"]
    call_id: str
    name: str
    arguments: str


Item = Message | Reasoning | FunctionCall
Part = OutputText | ReasoningText


class InputDetails(msgspec.Struct, frozen=True):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseFailure(msgspec.Struct, frozen=True):
    code: str
    message: str


class Incomplete(msgspec.Struct, frozen=True):
    reason: Literal["max_output_tokens"]


class Response(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status
    background: bool
    error: ResponseFailure | None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[Item] = []
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: ReasoningConfig
    service_tier: Literal["default"] = "default"
    store: bool
    temperature: float
    text: TextConfig
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | AllowedTools
    tools: list[Tool]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None = None
    user: str | None


class ItemList(msgspec.Struct, frozen=True):
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


class Deleted(msgspec.Struct, frozen=True):
    id: str
    object: Literal["response"] = "response"
    deleted: bool = True
