"""Argument values that arrive as bare text, typed by the tool's schema. Knows no format.

XML-like formats write `5` for the number and for the string. The schema decides; where the text
does not fit the declared type it stays a string, so nothing is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from octavo.parsers import pythonic
from octavo.parsers.json_scan import Balance
from octavo.parsers.machine import Tool

NAMES: Mapping[type, str] = {
    dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number",
    type(None): "null",
}  # fmt: skip
MAX_UNION = 8  # levels of anyOf in anyOf that are looked into


def types_of(tool: Tool | None, key: str) -> frozenset[str]:
    """The JSON types the parameter may have; empty when the schema does not say."""
    properties = tool.parameters.get("properties") if tool else None
    schema = properties.get(key) if isinstance(properties, Mapping) else None
    return frozenset(_types(schema, MAX_UNION))


def _types(schema: Any, depth: int) -> Iterable[str]:
    if not isinstance(schema, Mapping) or depth == 0:
        return
    declared = schema.get("type")
    if isinstance(declared, str):
        yield declared
    elif isinstance(declared, list):
        yield from (t for t in declared if isinstance(t, str))
    elif isinstance(schema.get("enum"), list):
        yield from (NAMES.get(type(value), "string") for value in schema["enum"])
    for union in ("anyOf", "oneOf"):
        options = schema.get(union)
        for option in options if isinstance(options, list) else ():
            yield from _types(option, depth - 1)


def quoted(text: str) -> str:
    """The text as a JSON string."""
    return json.dumps(text, ensure_ascii=False)


def convert(text: str, types: frozenset[str]) -> str:
    """JSON text for a value that is written as `text` and should have one of `types` (empty: any)."""
    bare = text.strip()
    value = bare if _is_json(bare) else pythonic.value_of(bare)
    if value is None or (types and not _fits(json.loads(value), types)):
        return quoted(text)
    return value


def _is_json(text: str) -> bool:
    """Is it one JSON value that any parser would take (depth, no NaN, no endless integer)?"""
    if text[:1] in ("{", "["):
        balance = Balance()
        if balance.scan(text, 0) != len(text) or not balance.done:
            return False
    try:
        json.loads(text, parse_constant=_refuse)
    except ValueError:
        return False
    return True


def _refuse(word: str) -> None:
    raise ValueError(word)


def _fits(value: object, types: frozenset[str]) -> bool:
    name = NAMES[type(value)]
    return name in types or (name == "integer" and "number" in types)
