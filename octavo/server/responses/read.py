"""A body of this dialect as a chat request, so that it is checked and built like every other one."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from octavo.core.errors import UserError
from octavo.server.openai import build
from octavo.server.openai.refused import Refusal, refuse_unavailable
from octavo.server.openai.types import (
    ChatRequest,
    FunctionDefinition,
    FunctionName,
    FunctionTool,
    JsonSchemaFormat,
    NamedTool,
    ResponseFormat,
)
from octavo.server.responses.items import to_messages
from octavo.server.responses.types import (
    AllowedTools,
    FunctionChoice,
    JsonObject,
    JsonSchema,
    ResponseRequest,
    Tool,
)

_SAME = (
    "model", "stream", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "presence_penalty",
    "frequency_penalty", "repetition_penalty", "logit_bias", "ignore_eos", "include_stop_str_in_output",
    "skip_special_tokens", "structured_outputs", "chat_template_kwargs", "priority", "request_id",
    "cache_salt", "user", "parallel_tool_calls",
)  # fmt: skip
_REFUSED = {
    "conversation": Refusal(hint="use previous_response_id"),
    "prompt": Refusal(hint="send the text itself, as instructions and input"),
    "moderation": Refusal(),
    "context_management": Refusal(([],), hint="use truncation"),
}
_NAMES = {
    "response_format": "text.format",
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
}
_SCORES = "message.output_text.logprobs"
_FACT = re.compile(r"(tools\[\d+\])\.function\b")
_MOST_METADATA, _LONGEST_KEY, _LONGEST_VALUE = 16, 64, 512
_MOST_TOP = 20


def to_chat(body: ResponseRequest, before: Sequence[Mapping[str, Any]], items: Sequence[Any]) -> ChatRequest:
    """`before` are the items of the conversation so far, `items` those of this request."""
    refuse_unavailable(body, _REFUSED)
    if body.text is not None and body.text.verbosity not in (None, "medium"):
        hint = "ask for brevity in instructions"
        raise UserError("text.verbosity is not available on this server", hint=hint, field="text.verbosity")
    check_metadata(body.metadata)
    messages = to_messages([*before, *items], len(before))
    if body.instructions:
        messages.insert(0, {"role": "system", "content": body.instructions})
    tools, choice = _tools(body)
    top = scored(body)
    return ChatRequest(
        **{name: getattr(body, name) for name in _SAME},
        messages=messages,
        max_tokens=body.max_output_tokens,
        tools=tools,
        tool_choice=choice,
        response_format=_format(body),
        reasoning_effort=body.reasoning.effort if body.reasoning else None,
        logprobs=None if top is None else True,
        top_logprobs=top,
    )


def items_of(body: ResponseRequest) -> list[dict[str, Any]]:
    """The input as items; text is what a user says."""
    if isinstance(body.input, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": body.input}]}]
    if not body.input:
        raise UserError("input is empty", hint="send text or at least one item", field="input")
    return body.input


def scored(body: ResponseRequest) -> int | None:
    """How many alternatives to each token are told; None when none of them is."""
    asked = body.top_logprobs or 0
    if not 0 <= asked <= _MOST_TOP:
        hint = f"an integer from 0 to {_MOST_TOP}"
        raise UserError(f"top_logprobs is {asked}", hint=hint, field="top_logprobs")
    return asked if asked or _SCORES in (body.include or ()) else None


@contextlib.contextmanager
def own_words() -> Iterator[None]:
    """Errors name fields as this dialect does."""
    with build.renaming(_NAMES):
        try:
            yield
        except UserError as error:
            if not (error.field or "").startswith("tools["):
                raise
            message, field = (_FACT.sub(r"\1", text) for text in (error.message, error.field or ""))
            raise type(error)(message, hint=error.hint, field=field) from None


def check_metadata(given: Mapping[str, str] | None) -> None:
    pairs = given or {}
    if len(pairs) > _MOST_METADATA:
        raise UserError(
            f"metadata has {len(pairs)} pairs, the limit is {_MOST_METADATA}",
            hint="send fewer",
            field="metadata",
        )
    if any(len(key) > _LONGEST_KEY or len(value) > _LONGEST_VALUE for key, value in pairs.items()):
        raise UserError(
            f"metadata has a key of over {_LONGEST_KEY} or a value of over {_LONGEST_VALUE} characters",
            hint="shorten it",
            field="metadata",
        )


def _tools(body: ResponseRequest) -> tuple[list[FunctionTool] | None, Any]:
    """The tools and the choice among them, in a chat's words."""
    choice, tools = body.tool_choice, body.tools
    if isinstance(choice, AllowedTools):
        tools = _allowed(tools or [], choice)
        return _functions(tools), choice.mode
    if isinstance(choice, FunctionChoice):
        return _functions(tools), NamedTool(FunctionName(choice.name))
    return _functions(tools), choice


def _functions(tools: Sequence[Tool] | None) -> list[FunctionTool] | None:
    """No tools may be sent as an empty list here."""
    return [
        FunctionTool(FunctionDefinition(one.name, one.description, one.parameters, one.strict))
        for one in tools or ()
    ] or None


def _allowed(tools: Sequence[Tool], choice: AllowedTools) -> list[Tool]:
    named = {one.name for one in choice.tools}
    known = {one.name for one in tools}
    if missing := sorted(named - known):
        raise UserError(
            f"tool_choice names {missing[0][:128]!r}, which is no tool of this request",
            hint=f"the tools are: {', '.join(sorted(known))[:500]}",
            field="tool_choice",
        )
    return [one for one in tools if one.name in named]


def _format(body: ResponseRequest) -> ResponseFormat | None:
    asked = body.text.format if body.text else None
    if isinstance(asked, JsonObject):
        return ResponseFormat("json_object")
    if isinstance(asked, JsonSchema):
        schema = JsonSchemaFormat(asked.name, asked.schema, asked.description, asked.strict)
        return ResponseFormat("json_schema", schema)
    return None
