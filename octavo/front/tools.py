"""The tools of a request, whatever dialect it came in: checked, as parsers and templates read them.

Knows no wire type and no format of calls.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from octavo.core.errors import UserError
from octavo.grammar.spec import DEEPEST, deeper
from octavo.parsers.machine import Tool, ToolChoice

MOST_TOOLS = 256
_MOST_BYTES = 1 << 20
_LONGEST_DESCRIPTION = 65536
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")  # MCP names have dots and slashes
_OPEN = {"additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref"}
_NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}


class Definition(NamedTuple):
    """One tool as a client describes it. `strict` asks that calls fit the schema."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool = False


class ToolUse(NamedTuple):
    """What may be called. `shown` is how templates read the tools; empty when they are not told."""

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = ToolChoice("none")
    shown: tuple[Mapping[str, Any], ...] = ()
    strict: frozenset[str] = frozenset()

    @property
    def forced(self) -> bool:
        """Whether there must be a call."""
        return self.choice.mode in ("required", "named")


def read_tools(
    definitions: Sequence[Definition], choice: ToolChoice, *, place: str = "tools[{}].function"
) -> ToolUse:
    """`place` is where a dialect keeps the facts of tool number {}. UserError names what is wrong."""
    if not definitions:
        raise UserError("tools is empty", hint="leave it out or describe at least one", field="tools")
    if len(definitions) > MOST_TOOLS:
        raise UserError(
            f"{len(definitions)} tools, the limit is {MOST_TOOLS}",
            hint="send those the conversation needs",
            field="tools",
        )
    _check_size(definitions)
    seen: set[str] = set()
    for at, one in enumerate(definitions):
        _check(one, place.format(at), seen)
    if choice.mode == "named" and choice.name not in seen:
        known = ", ".join(sorted(seen))[:500]
        raise UserError(
            f"tool_choice names {choice.name[:128]!r}, which is no tool of this request",
            hint=f"the tools are: {known}",
            field="tool_choice",
        )
    return ToolUse(
        tools=tuple(Tool(one.name, _schema(one.parameters)) for one in definitions),
        choice=choice,
        shown=tuple(_shown(one) for one in definitions),
        strict=frozenset(one.name for one in definitions if one.strict),
    )


def _check_size(definitions: Sequence[Definition]) -> None:
    """Before anything walks through them."""
    try:
        size = len(msgspec.json.encode(definitions))
    except RecursionError:
        raise UserError("tools are nested too deeply", hint="flatten them", field="tools") from None
    if size > _MOST_BYTES:
        raise UserError(
            f"tools have {size} bytes, the limit is {_MOST_BYTES}",
            hint="send those the conversation needs",
            field="tools",
        )


def _check(one: Definition, where: str, seen: set[str]) -> None:
    if not _NAME.fullmatch(one.name):
        hint = "1 to 128 letters, digits, dots, colons, slashes, dashes and underscores"
        raise UserError(f"{where}.name is not a tool's name", hint=hint, field=f"{where}.name")
    if one.name in seen:
        raise UserError(
            f"{where}.name: {one.name!r} is there twice", hint="rename one", field=f"{where}.name"
        )
    seen.add(one.name)
    if one.description is not None and len(one.description) > _LONGEST_DESCRIPTION:
        raise UserError(
            f"{where}.description has {len(one.description)} characters, the limit is {_LONGEST_DESCRIPTION}",
            hint="shorten it",
            field=f"{where}.description",
        )
    field = f"{where}.parameters"
    if one.parameters is not None and deeper(one.parameters, DEEPEST):
        hint = "use $ref for what repeats"
        raise UserError(f"{field} is nested more than {DEEPEST} levels deep", hint=hint, field=field)
    if (one.parameters or {}).get("type", "object") != "object":
        hint = 'arguments are an object: {"type": "object", "properties": {...}}'
        raise UserError(f"{field} is not the schema of an object", hint=hint, field=field)


def _schema(parameters: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What arguments must fit. A tool that says nothing of its parameters has none; one that lists them
    has no others, unless it says so: no function could take them, and small models love to add some."""
    if not parameters:
        return _NOTHING
    listed = "properties" in parameters and not _OPEN & parameters.keys()
    return {"type": "object", **parameters, **({"additionalProperties": False} if listed else {})}


def _shown(one: Definition) -> Mapping[str, Any]:
    function: dict[str, Any] = {"name": one.name}
    if one.description is not None:
        function["description"] = one.description
    function["parameters"] = one.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": function}
