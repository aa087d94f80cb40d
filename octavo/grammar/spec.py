"""What a request asks for, as the GrammarSpec that the core compiles. Knows no grammar library.

Checks form and size; whether a grammar can be compiled is for check.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from octavo.core.errors import UserError
from octavo.core.request import GrammarSpec

KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
DEEPEST = 64  # levels of a schema; libraries walk it recursively
MOST_CHOICES = 4096
ANY_OBJECT = '{"type":"object"}'


def read(
    kind: str, value: Any, *, most: int, whitespace: str | None = None, closed: bool = False
) -> GrammarSpec:
    """The spec of one constraint, at most `most` bytes long. `closed` adds "additionalProperties":
    false to every object of a schema that does not say. UserError names the kind as its field."""
    readers = {
        "json": _json,
        "regex": _regex,
        "choice": _choice,
        "grammar": _grammar,
        "json_object": _object,
        "structural_tag": _tag,
    }
    spec_kind, text = readers[kind](value, closed)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise _bad(kind, "is not valid Unicode: it has half of a surrogate pair", "send UTF-8") from None
    if size > most:
        raise _bad(kind, f"has {size} bytes, the limit is {most}", "simplify it or raise --max-grammar-bytes")
    return GrammarSpec(spec_kind, text, whitespace)


def _json(value: Any, closed: bool) -> tuple[str, str]:
    schema = _document("json", value)
    return "json", _dump(_closed(schema) if closed else schema)


def _object(value: Any, closed: bool) -> tuple[str, str]:
    if value is not True:
        raise _bad("json_object", "is not true", "leave it out, or set it to true")
    return "json", ANY_OBJECT


def _regex(value: Any, closed: bool) -> tuple[str, str]:
    return "regex", _text("regex", value)


def _grammar(value: Any, closed: bool) -> tuple[str, str]:
    """Lark, or the EBNF of llama.cpp, which writes ::= where Lark has a colon."""
    text = _text("grammar", value)
    return ("ebnf" if "::=" in text else "lark"), text


def _choice(value: Any, closed: bool) -> tuple[str, str]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence) or not value:
        raise _bad("choice", "is not a list of texts", 'such as ["yes", "no"]')
    if len(value) > MOST_CHOICES:
        raise _bad("choice", f"has {len(value)} entries, the limit is {MOST_CHOICES}", "send fewer")
    if not all(isinstance(one, str) and one for one in value):
        raise _bad("choice", "has an entry that is empty or not text", "send non-empty texts")
    return "choice", _dump(list(dict.fromkeys(value)))


def _tag(value: Any, closed: bool) -> tuple[str, str]:
    return "structural_tag", _dump(_document("structural_tag", value))


def _text(kind: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _bad(kind, "is empty or not text", "send it as text")
    return value


def _document(kind: str, value: Any) -> Mapping[str, Any]:
    """A JSON object, as itself or as its text."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise _bad(kind, "is not valid JSON", "send an object or its JSON text") from None
    if not isinstance(found, Mapping):
        raise _bad(kind, "is not a JSON object", "send an object or its JSON text")
    if deeper(found, DEEPEST):
        raise _bad(kind, f"is nested more than {DEEPEST} levels deep", "use $ref for what repeats")
    return found


def deeper(value: Any, limit: int) -> bool:
    """Whether there are more than `limit` levels. Level by level, so that depth costs no stack."""
    level: list[Any] = [value]
    for _ in range(limit):
        level = [
            child
            for one in level
            if isinstance(one, Mapping | list | tuple)
            for child in (one.values() if isinstance(one, Mapping) else one)
        ]
        if not level:
            return False
    return True


def _closed(node: Any) -> Any:
    """Values of enum, const and the like are no schemas; nothing there says "properties" by chance."""
    if isinstance(node, list | tuple):
        return [_closed(one) for one in node]
    if not isinstance(node, Mapping):
        return node
    inner = {
        key: value if key in ("enum", "const", "default") else _closed(value) for key, value in node.items()
    }
    if isinstance(inner.get("properties"), Mapping):
        inner.setdefault("additionalProperties", False)
    return inner


def _dump(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError):
        raise _bad(
            "json", "holds something JSON has not", "use plain objects, lists, texts and numbers"
        ) from None


def _bad(kind: str, what: str, hint: str) -> UserError:
    return UserError(f"structured_outputs: {kind} {what}", hint=hint, field="structured_outputs")
