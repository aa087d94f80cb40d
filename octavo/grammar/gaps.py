"""Schemas that llguidance takes but would not hold an answer to: said by name, so that they are refused.

Found by running the JSON-Schema-Test-Suite against its grammars (tests/unit/grammar/test_suite.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_VALUES = ("const", "enum")
_NOTES = ("title", "description", "default", "examples", "$comment", "x-guidance")
_CONTROL = re.compile(r"[\x00-\x07\x0b\x0e-\x1f]")  # what JSON can spell with \u only
_SPELLED = re.compile(r"\\(?:x[01]|u00[01]|u\{0*[01]?[0-9a-fA-F]\}|0|v)")


def gap(schema: Any) -> str | None:
    """What in it would go unnoticed; None when nothing would."""
    if isinstance(schema, Mapping) and "x-guidance" in schema:
        return 'Unimplemented keys: ["x-guidance"]'  # would switch the library's own checks off
    for node in _nodes(schema):
        if (why := _properties(node) or _texts(node) or _pattern(node)) is not None:
            return why
    return None


def _nodes(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every object of the schema that is not a value or a note. Depth is checked before."""
    if isinstance(value, list):
        for one in value:
            yield from _nodes(one)
    elif isinstance(value, Mapping):
        yield value
        for key, one in value.items():
            if key not in (*_VALUES, *_NOTES):
                yield from _nodes(one)


def _properties(node: Mapping[str, Any]) -> str | None:
    """The same name twice counts as two there, and as one for whoever reads the answer."""
    least, required = node.get("minProperties"), node.get("required")
    names = len(set(map(str, required))) if isinstance(required, list) else 0
    closed = node.get("additionalProperties") is False and not node.get("patternProperties")
    if closed or not isinstance(least, int | float) or least <= names + 1:
        return None
    return f"minProperties {least} with free names cannot be enforced: name what is required"


def _texts(node: Mapping[str, Any]) -> str | None:
    for key in (*_VALUES, "pattern"):
        if key in node and _has_control(node[key]):
            return f"{key} holds a control character, which cannot be enforced"
    for key in ("properties", "patternProperties"):
        names = node.get(key)
        if isinstance(names, Mapping) and any(_CONTROL.search(name) for name in names):
            return f"{key} has a name with a control character, which cannot be enforced"
    return None


def _has_control(value: Any) -> bool:
    if isinstance(value, str):
        return _CONTROL.search(value) is not None
    if isinstance(value, list):
        return any(map(_has_control, value))
    return isinstance(value, Mapping) and any(map(_has_control, [*value, *value.values()]))


def _pattern(node: Mapping[str, Any]) -> str | None:
    """Control characters that a pattern spells outside of [...], where it insists on them."""
    pattern = node.get("pattern")
    if isinstance(pattern, str) and _SPELLED.search(_outside_classes(pattern)):
        return "pattern asks for a control character, which cannot be enforced"
    return None


def _outside_classes(pattern: str) -> str:
    kept: list[str] = []
    inside = False
    at = 0
    while at < len(pattern):
        size = 2 if pattern[at] == "\\" else 1
        piece = pattern[at : at + size]
        if not inside and piece != "[":
            kept.append(" " if piece == "\\\\" else piece)  # what follows a backslash stands for itself
        inside = piece != "]" if inside else piece == "["
        at += size
    return "".join(kept)
