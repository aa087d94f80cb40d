"""Tools and reasoning of a chat request, in this dialect's words: what the front is asked for, and
how what the model says is written down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from octavo.core.errors import Unsupported, UserError
from octavo.front.params import SamplingParams
from octavo.front.speech import CallPiece, Plan, Said
from octavo.front.structured import StructuredOutputsParams
from octavo.front.tools import Definition, ToolUse, read_tools
from octavo.parsers.machine import ToolChoice
from octavo.server.openai import constraint
from octavo.server.openai.types import (
    ChatDelta,
    ChatRequest,
    FunctionCall,
    FunctionCallDelta,
    FunctionTool,
    NamedTool,
    ToolCall,
    ToolCallDelta,
)
from octavo.text.chat import ChatTemplate

_SWITCHES = ("enable_thinking", "thinking")  # what templates call it


def definitions(tools: Sequence[FunctionTool]) -> list[Definition]:
    facts = (tool.function for tool in tools)
    return [Definition(one.name, one.description, one.parameters, bool(one.strict)) for one in facts]


def use_of(body: ChatRequest) -> ToolUse:
    """UserError names the field that does not fit."""
    asked = body.tool_choice
    if body.tools is None:
        if asked in (None, "none", "auto"):
            return ToolUse()
        raise UserError("tool_choice needs tools", hint="describe the tools in tools", field="tool_choice")
    parallel = body.parallel_tool_calls is not False
    if isinstance(asked, NamedTool):
        choice = ToolChoice("named", asked.function.name, parallel=False)
    else:
        choice = ToolChoice(asked or "auto", parallel=parallel)
    return read_tools(definitions(body.tools), choice)


def constrain(params: SamplingParams, plan: Plan, use: ToolUse) -> bool:
    """Makes the answer's form that of the calls, where it must be. Returns whether it did."""
    if plan.constraint is None:
        return False
    if params.structured_outputs is not None:
        if not use.forced:
            return False  # the form the client asked for holds
        raise UserError(
            "tool_choice asks for a call, and the request for another form of the answer",
            hint="set tool_choice to auto, or ask for one of them",
            field="tool_choice",
        )
    params.structured_outputs = StructuredOutputsParams(structural_tag=plan.constraint.text)
    return True


def names(body: ChatRequest, constrained: bool) -> dict[str, str]:
    """What the parameter behind a constraint is called on this request."""
    return {"structured_outputs": "tools"} if constrained else constraint.names(body)


def variables(body: ChatRequest, template: ChatTemplate | None) -> dict[str, Any] | None:
    """chat_template_kwargs and what reasoning_effort adds to them. Unsupported when the model has
    no such choice; a client that wants no reasoning gets none."""
    given, effort = body.chat_template_kwargs, body.reasoning_effort
    if effort is None or template is None:
        return given
    told: dict[str, Any] = {name: effort != "none" for name in _SWITCHES if template.knows(name)}
    if template.knows("reasoning_effort"):
        told["reasoning_effort"] = effort
    if not told and effort != "none":
        raise Unsupported(
            "reasoning_effort is not available: this model's reasoning cannot be set",
            hint="leave it out",
            field="reasoning_effort",
        )
    return {**told, **(given or {})} or None


def size_of(tools: Sequence[FunctionTool] | None) -> int:
    """About as many characters as have to be rendered."""
    return len(msgspec.json.encode(tools)) if tools else 0


def delta(said: Said, blank: bool) -> ChatDelta:
    """What a chunk's delta holds. `blank`: empty text is told as such."""
    out = ChatDelta()
    if said.text or blank:
        out.content = said.text
    if said.thought:
        out.reasoning = said.thought
    if said.calls:
        out.tool_calls = [_call_delta(piece) for piece in said.calls]
    return out


def _call_delta(piece: CallPiece) -> ToolCallDelta:
    if piece.id is None or piece.name is None:
        return ToolCallDelta(piece.at, FunctionCallDelta(piece.arguments))
    return ToolCallDelta(piece.at, FunctionCallDelta(piece.arguments, piece.name), piece.id, "function")


def fold_calls(deltas: Iterable[ToolCallDelta]) -> list[ToolCall]:
    """Whole calls, in the order they began."""
    groups: dict[int, list[ToolCallDelta]] = {}
    for one in deltas:
        groups.setdefault(one.index, []).append(one)
    return [_whole(pieces) for pieces in groups.values()]


def _whole(pieces: Sequence[ToolCallDelta]) -> ToolCall:
    first = pieces[0]
    assert first.id is not UNSET and first.function.name is not UNSET, "a call begins with its name"
    arguments = "".join(piece.function.arguments for piece in pieces)
    return ToolCall(first.id, FunctionCall(first.function.name, arguments))
