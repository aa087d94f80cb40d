"""The form of arguments that are written as markup, so that a grammar can hold them to a tool's schema.

Values stand there as bare text, and the parser reads them by their declared types. A form is offered where
whatever fits it is read as arguments that fit the schema; None where that cannot be promised: text with a
pattern or a length, JSON with free text in it (which could hold the closing tag), `$ref`, and keywords
beside `properties`. Parameters come in the schema's order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from octavo.core.request import GrammarSpec
from octavo.parsers.constraint import structural_tag
from octavo.parsers.machine import Tool, ToolChoice
from octavo.parsers.markup import Markup
from octavo.parsers.typed import MAX_UNION, types_of

Node = dict[str, Any]
_NOTHING: Node = {"type": "const_string", "value": "\n"}  # no parameters: an empty line
_NOTES = {"title", "description", "default", "examples", "$comment", "deprecated"}
_OBJECT = {*_NOTES, "type", "properties", "required", "additionalProperties", "$schema", "$id"}
_SCALAR = {"integer", "number", "boolean", "null"}


def markup_tag(
    form: Markup, tools: Sequence[Tool], choice: ToolChoice, trigger: str, outer: tuple[str, str] = ("", "")
) -> GrammarSpec | None:
    """Calls that begin with `trigger` and the tool's name. A call that is required stands in `outer`, and has
    to have a form; where the model may choose, one without a form, or whose arguments nobody asks about,
    is free."""
    forced = choice.mode in ("required", "named")
    before, after = outer if forced else ("", "")
    held = {tool.name: arguments(form, tool) for tool in tools if tool.parameters or forced}
    free = None if forced else {"type": "any_text"}

    def frame(name: str) -> tuple[str, str]:
        content = held.get(name)
        named = f"{name}{form.name_close}" if content or form.name_close else f"{name}\n"
        close = f"\n{form.close}" if content and content is not _NOTHING else form.close
        return f"{before}{trigger}{named}", f"{close}{after}"

    return structural_tag(
        tools, choice, trigger, frame, separator="\n", arguments=lambda tool: held.get(tool.name) or free
    )


def arguments(form: Markup, tool: Tool) -> Node | None:
    """What stands between the tool's name and the line that ends the call. Line breaks belong to what follows
    them: a lexer would take one by itself for the beginning of either."""
    schema = tool.parameters
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not schema.keys() <= _OBJECT or not isinstance(properties, Mapping) or not isinstance(required, list):
        return None
    if not all(isinstance(key, str) and key in properties for key in required):
        return None
    elements: list[Node] = []
    for key, value in properties.items():
        parameter = _parameter(form, tool, key, value)
        if parameter is None:
            return None
        elements.append(parameter if key in required else _perhaps(parameter))
    return {"type": "sequence", "elements": elements} if elements else _NOTHING


def _perhaps(parameter: Node) -> Node:
    once = {"separator": "", "at_least_one": False, "stop_after_first": True}
    return {"type": "tags_with_separator", "tags": [parameter], **once}


def _parameter(form: Markup, tool: Tool, key: str, schema: Any) -> Node | None:
    if not key or key != key.strip() or not key.isprintable() or any(c in "<>" for c in key):
        return None
    begin = f"\n{form.key_open}{key}{form.key_close}\n{form.value_open}"
    if not isinstance(schema, Mapping):
        return None
    types = types_of(tool, key)
    bare = types == {"string"} or (not types and form.untyped_is_string)  # the parser does not look into it
    if _is_text(schema, MAX_UNION) and (bare or "string" in types):
        return {"type": "tag", "begin": begin, "content": {"type": "any_text"}, "end": form.value_ends[-1]}
    content = _words(schema) if bare else _json(schema)
    return content and {"type": "tag", "begin": begin, "content": content, "end": form.value_ends[0]}


def _is_text(schema: Any, depth: int) -> bool:
    """Any text at all is read as a value that fits: a string, or what else it says and the schema allows."""
    if not isinstance(schema, Mapping) or not depth or not schema.keys() <= {*_NOTES, "type", "anyOf"}:
        return False
    if not _kinds(schema) <= {"string", *_SCALAR}:
        return False
    return all(_is_text(one, depth - 1) for one in schema.get("anyOf", ()))


def _words(schema: Mapping[str, Any]) -> Node | None:
    """One of given texts, none of which could be read as something else."""
    given = schema.get("enum", [schema.get("const")])
    if not schema.keys() <= {*_NOTES, "type", "enum", "const"} or {"enum", "const"} <= schema.keys():
        return None
    if not given or not all(isinstance(one, str) and one and "<" not in one for one in given):
        return None
    return {"type": "or", "elements": [{"type": "const_string", "value": one} for one in given]}


def _json(schema: Mapping[str, Any]) -> Node | None:
    return None if _free(schema) else {"type": "json_schema", "json_schema": dict(schema)}


def _free(schema: Any) -> bool:
    """Whether JSON of this schema may hold a text that nobody foresaw."""
    if not isinstance(schema, Mapping):
        return True
    if "enum" in schema or "const" in schema:
        return "<" in repr([schema.get("enum"), schema.get("const")])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return any(map(_free, schema[union]))
    kinds = _kinds(schema) or {"string"}
    if "array" in kinds and _free(schema.get("items")):
        return True
    if "object" in kinds and _free_object(schema):
        return True
    return not kinds <= {*_SCALAR, "array", "object"}


def _kinds(schema: Mapping[str, Any]) -> set[str]:
    """The types it names itself."""
    types = schema.get("type", [])
    return {types} if isinstance(types, str) else {str(one) for one in types}


def _free_object(schema: Mapping[str, Any]) -> bool:
    properties = schema.get("properties", {})
    closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
    return not closed or any("<" in key or _free(one) for key, one in properties.items())
