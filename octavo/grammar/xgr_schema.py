"""Which JSON schemas xgrammar holds an answer to. It passes over what it does not know, so only forms that
were found to hold are let through (tests/unit/grammar/test_xgr.py); the rest is named. Knows no library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Node = Mapping[str, Any]
_NOTES = frozenset((
    "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment",
    "$schema", "$id", "$defs", "definitions",
))  # fmt: skip
_BY_TYPE = {
    "object": frozenset(("properties", "required", "additionalProperties")),
    "array": frozenset(("items", "prefixItems", "minItems", "maxItems")),
    "string": frozenset(("minLength", "maxLength", "pattern", "format")),
    "integer": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")),
    "number": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")),
    "boolean": frozenset(),
    "null": frozenset(),
}
_FORMATS = ("date", "time", "date-time", "email", "ipv4", "ipv6", "uuid", "uri")
_IS: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, Mapping),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


def unheld(schema: Any) -> str | None:
    """What in the schema would not be enforced; None when all of it is."""
    if isinstance(schema, bool):
        return None if schema else "false, which nothing fits"
    if not isinstance(schema, Mapping):
        return "a schema that is no object"
    keys = {key for key in schema if key not in _NOTES}
    why = _alone(schema, keys)
    if why is None:
        why = next((why for why in map(unheld, _below(schema)) if why is not None), None)
    return why


def rewritten(schema: Any) -> Any:
    """The same in words that it does hold to: strings of a bounded length might have control characters in
    them, and objects that name no properties would have none."""
    if isinstance(schema, list):
        return [rewritten(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    out = {key: value if key in ("const", "enum") else rewritten(value) for key, value in schema.items()}
    if out.get("type") == "string" and ("maxLength" in out or "minLength" in out):
        least, most = out.pop("minLength", 0), out.pop("maxLength", "")
        out["pattern"] = f"^[^\\x00-\\x1f]{{{least},{most}}}$"
    if out.get("type") == "object" and not out.get("properties"):
        out.setdefault("additionalProperties", True)
    return out


def _alone(node: Node, keys: set[str]) -> str | None:
    """Of one node, without what is below it."""
    for key in ("$ref", "anyOf", "const", "enum"):
        if key in keys:
            return _only(node, key, keys)
    kind = node.get("type")
    if not keys or (isinstance(kind, list) and keys == {"type"}):
        return None
    if not isinstance(kind, str) or kind not in _BY_TYPE:
        return f"{min(keys - {'type'} or keys)} without a single type beside it"
    if unknown := keys - {"type"} - _BY_TYPE[kind]:
        return min(unknown)
    return _together(node)


def _only(node: Node, key: str, keys: set[str]) -> str | None:
    if beside := keys - {key, "type"}:
        return f"{min(beside)} beside {key}"
    if key == "$ref":
        local = isinstance(node[key], str) and node[key].startswith("#") and "%" not in node[key]
        return None if local and "type" not in keys and node[key][1:2] in ("", "/") else "$ref of that kind"
    if "type" not in keys:
        return None
    values = [node["const"]] if key == "const" else node[key] if key == "enum" else None
    if isinstance(values, list) and isinstance(node["type"], str) and all(map(_IS[node["type"]], values)):
        return None
    return f"type beside {key}"


def _together(node: Node) -> str | None:
    """Keywords of one type that do not go together there."""
    required, known = node.get("required", ()), node.get("properties", {})
    if missing := [name for name in required if name not in known]:
        return f"required {missing[0]!r}, which is not among properties"
    if known and node.get("additionalProperties", False) is not False:
        return "additionalProperties beside properties"
    strings = [key for key in ("pattern", "format", "maxLength", "minLength") if key in node]
    if len(strings) > 1 and strings[0] in ("pattern", "format"):
        return f"{strings[1]} beside {strings[0]}"
    if "format" in node and node["format"] not in _FORMATS:
        return f"format {node['format']!r}"
    return None


def _below(node: Node) -> Iterator[Any]:
    for key in ("properties", "$defs", "definitions"):
        if isinstance(node.get(key), Mapping):
            yield from node[key].values()
    for key in ("anyOf", "prefixItems"):
        if isinstance(node.get(key), Sequence):
            yield from node[key]
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), Mapping):
            yield node[key]
