"""A body of this dialect as a chat request, so that it is checked and built like every other one."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from octavo.core.errors import Unsupported, UserError
from octavo.server.anthropic.blocks import to_messages
from octavo.server.anthropic.types import (
    AnyChoice,
    CountRequest,
    MessageRequest,
    NoChoice,
    ThinkingAdaptive,
    ThinkingOn,
    ToolChoice,
)
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
from octavo.server.service import Service

LEAST_BUDGET = 1024
_SAME = (
    "max_tokens", "stream", "temperature", "top_p", "top_k", "min_p", "seed", "repetition_penalty",
    "chat_template_kwargs", "priority", "cache_salt",
)  # fmt: skip
_REFUSED = {"container": Refusal(), "mcp_servers": Refusal(([],), hint="call tools in the client")}
_NAMES = {
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "stop": "stop_sequences",
    "thinking_token_budget": "thinking.budget_tokens",
}
_FACT = re.compile(r"(tools\[\d+\])\.function\b")


def to_chat(service: Service, body: CountRequest) -> ChatRequest:
    """UserError in this dialect's words, if `own_words` is around."""
    refuse_unavailable(body, _REFUSED)
    thinking = _thinking(service, body)
    messages = to_messages(body.messages)
    system = body.system if isinstance(body.system, str) else "\n".join(one.text for one in body.system or ())
    if system:
        messages.insert(0, {"role": "system", "content": system})
    goes_on = messages[-1]["role"] == "assistant"
    if goes_on and messages[-1].get("tool_calls"):
        hint = "send their results as tool_result blocks of a user's message"
        raise UserError("the last message calls tools", hint=hint, field="messages")
    sampling: dict[str, Any] = {}
    if isinstance(body, MessageRequest):
        sampling = {name: getattr(body, name) for name in _SAME}
        sampling["stop"] = body.stop_sequences or None
    choice, parallel = _choice(body)
    return ChatRequest(
        model=body.model,
        messages=messages,
        **sampling,
        tools=_functions(body) or None,
        tool_choice=choice if body.tools else None,
        parallel_tool_calls=parallel,
        continue_final_message=goes_on or None,
        response_format=_format(body),
        reasoning_effort=_effort(body) if thinking else "none",
        include_reasoning=thinking,
        thinking_token_budget=body.thinking.budget_tokens if isinstance(body.thinking, ThinkingOn) else None,
    )


@contextlib.contextmanager
def own_words() -> Iterator[None]:
    """Errors name fields as this dialect does."""
    with build.renaming(_NAMES):
        try:
            yield
        except UserError as error:
            if not (error.field or "").startswith("tools["):
                raise
            message, field = (
                _FACT.sub(r"\1", text).replace("].parameters", "].input_schema")
                for text in (error.message, error.field or "")
            )
            raise type(error)(message, hint=error.hint, field=field) from None


def _thinking(service: Service, body: CountRequest) -> bool:
    """Whether the model is to think before it answers: only when that is asked for."""
    asked = body.thinking
    if not isinstance(asked, ThinkingOn | ThinkingAdaptive):
        return False
    if isinstance(asked, ThinkingOn):
        _check_budget(asked.budget_tokens, body)
        if service.formats.reasoning is None:
            raise Unsupported(
                "thinking is not available: this model does not think before it answers",
                hint="leave it out, or serve a reasoning model",
                field="thinking",
            )
    return service.formats.reasoning is not None


def _check_budget(budget: int, body: CountRequest) -> None:
    most = body.max_tokens - 1 if isinstance(body, MessageRequest) else None
    if budget < LEAST_BUDGET or (most is not None and budget > most):
        hint = f"an integer of at least {LEAST_BUDGET}, less than max_tokens"
        raise UserError(
            f"thinking.budget_tokens is {budget}"
            if abs(budget) < 1 << 63
            else "thinking.budget_tokens is huge",
            hint=hint,
            field="thinking.budget_tokens",
        )


def _effort(body: CountRequest) -> Any:
    return body.output_config.effort if body.output_config else None


def _choice(body: CountRequest) -> tuple[Any, bool | None]:
    """The choice in a chat's words, and whether there may be several calls."""
    asked = body.tool_choice
    if asked is None:
        return None, None
    if isinstance(asked, NoChoice):
        return "none", None
    parallel = False if asked.disable_parallel_tool_use else None
    if isinstance(asked, ToolChoice):
        return NamedTool(FunctionName(asked.name)), parallel
    return "required" if isinstance(asked, AnyChoice) else "auto", parallel


def _functions(body: CountRequest) -> list[FunctionTool]:
    return [
        FunctionTool(FunctionDefinition(one.name, one.description, one.input_schema, one.strict))
        for one in body.tools or ()
    ]


def _format(body: CountRequest) -> ResponseFormat | None:
    asked = body.output_config.format if body.output_config else None
    if asked is None:
        return None
    return ResponseFormat("json_schema", JsonSchemaFormat("answer", asked.schema))
