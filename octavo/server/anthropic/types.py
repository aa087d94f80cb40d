"""The wire types of the Messages API. Types only; ranges are checked where requests are built."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from octavo.server.narrate import Event

# -- requests -----------------------------------------------------------------------------


class TextBlockIn(msgspec.Struct, frozen=True):
    text: str
    type: Literal["text"] = "text"


class Tool(msgspec.Struct, frozen=True):
    """`input_schema` is the JSON schema of an object."""

    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None


class AutoChoice(msgspec.Struct, frozen=True, tag="auto"):
    disable_parallel_tool_use: bool = False


class AnyChoice(msgspec.Struct, frozen=True, tag="any"):
    disable_parallel_tool_use: bool = False


class ToolChoice(msgspec.Struct, frozen=True, tag="tool"):
    name: str
    disable_parallel_tool_use: bool = False


class NoChoice(msgspec.Struct, frozen=True, tag="none"):
    pass


class ThinkingOn(msgspec.Struct, frozen=True, tag="enabled"):
    budget_tokens: int
    display: Literal["summarized", "omitted"] | None = None


class ThinkingAdaptive(msgspec.Struct, frozen=True, tag="adaptive"):
    display: Literal["summarized", "omitted"] | None = None


class ThinkingOff(msgspec.Struct, frozen=True, tag="disabled"):
    pass


class JsonFormat(msgspec.Struct, frozen=True):
    schema: dict[str, Any]
    type: Literal["json_schema"] = "json_schema"


class OutputConfig(msgspec.Struct, frozen=True):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


_BLOCKS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["type"],
        "properties": {
            "type": {"enum": ["text", "thinking", "redacted_thinking", "tool_use", "tool_result"]}
        },
    },
}
_MESSAGE = {
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": {"enum": ["user", "assistant", "system"]},
            "content": {"anyOf": [{"type": "string"}, _BLOCKS]},
        },
    }
}
Messages = Annotated[list[dict[str, Any]], msgspec.Meta(extra_json_schema=_MESSAGE)]


class CountRequest(msgspec.Struct, kw_only=True):
    """POST /v1/messages/count_tokens: what decides how long the prompt is."""

    model: str
    messages: Messages
    system: str | list[TextBlockIn] | None = None
    tools: list[Tool] | None = None
    tool_choice: AutoChoice | AnyChoice | ToolChoice | NoChoice | None = None
    thinking: ThinkingOn | ThinkingAdaptive | ThinkingOff | None = None
    output_config: OutputConfig | None = None


class MessageRequest(CountRequest, kw_only=True):
    """POST /v1/messages."""

    max_tokens: int
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: dict[str, Any] | None = None
    # beyond the dialect, as on chat completions
    min_p: float | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    priority: int | None = None
    cache_salt: str | None = None
    # known elsewhere, refused here unless neutral (see read.py)
    container: Any = None
    mcp_servers: Any = None


# -- replies ------------------------------------------------------------------------------


class Text(msgspec.Struct, tag="text"):
    text: str = ""


class Thinking(msgspec.Struct, tag="thinking"):
    """`signature` is a digest of the text, for clients that want one; nobody checks it later."""

    thinking: str = ""
    signature: str = ""


class ToolUse(msgspec.Struct, tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any] = {}


Block = Text | Thinking | ToolUse
StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class Usage(msgspec.Struct, frozen=True):
    """`input_tokens` are those that were not in the prefix cache."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0


class Message(msgspec.Struct, tag="message", kw_only=True):
    id: str
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[Block] = []
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    usage: Usage


class CountReply(msgspec.Struct, frozen=True):
    input_tokens: int


class ErrorFacts(msgspec.Struct, frozen=True):
    type: str
    message: str


class AnthropicError(msgspec.Struct, frozen=True, tag="error"):
    """Anthropic's shape of every error."""

    error: ErrorFacts
    request_id: str | None = None


# -- events -------------------------------------------------------------------------------


class TextDelta(msgspec.Struct, tag="text_delta"):
    text: str


class ThinkingDelta(msgspec.Struct, tag="thinking_delta"):
    thinking: str


class SignatureDelta(msgspec.Struct, tag="signature_delta"):
    signature: str


class JsonDelta(msgspec.Struct, tag="input_json_delta"):
    partial_json: str


class StopDelta(msgspec.Struct, frozen=True):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageStart(Event, tag="message_start"):
    message: Message


class BlockStart(Event, tag="content_block_start"):
    index: int
    content_block: Block


class BlockDelta(Event, tag="content_block_delta"):
    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | JsonDelta


class BlockStop(Event, tag="content_block_stop"):
    index: int


class MessageDelta(Event, tag="message_delta"):
    delta: StopDelta
    usage: Usage


class MessageStop(Event, tag="message_stop"):
    pass


class Ping(Event, tag="ping"):
    pass


class ErrorEvent(Event, tag="error"):
    error: ErrorFacts


EVENTS: tuple[type[Event], ...] = (
    MessageStart, Ping, BlockStart, BlockDelta, BlockStop, MessageDelta, MessageStop, ErrorEvent,
)  # fmt: skip
