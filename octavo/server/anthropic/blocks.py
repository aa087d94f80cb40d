"""Messages of blocks to the messages that chats are made of. Knows no route."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from octavo.core.errors import Unsupported, UserError

Row = dict[str, Any]
MOST_BLOCKS = 4096
_ROLES = ("user", "assistant", "system")


def to_messages(messages: Sequence[Any]) -> list[Row]:
    """UserError names the place of what cannot be."""
    if not messages:
        raise UserError("messages is empty", hint="send at least one message", field="messages")
    rows: list[Row] = []
    for at, message in enumerate(messages):
        where = f"messages[{at}]"
        if not isinstance(message, Mapping):
            raise UserError(f"{where} is not an object", hint='{"role": ..., "content": ...}', field=where)
        role = message.get("role")
        if role not in _ROLES:
            hint = f"one of {', '.join(_ROLES)}"
            raise UserError(f"{where}.role is not a role", hint=hint, field=f"{where}.role")
        blocks = _blocks(message.get("content"), f"{where}.content")
        rows += _said(blocks) if role == "assistant" else _asked(str(role), blocks)
    return rows


def _blocks(content: Any, where: str) -> list[tuple[str, Mapping[str, Any], str]]:
    """(type, block, place) of each."""
    if isinstance(content, str):
        return [("text", {"text": content}, where)]
    if not isinstance(content, Sequence) or isinstance(content, bytes) or len(content) > MOST_BLOCKS:
        hint = f"text, or a list of at most {MOST_BLOCKS} blocks"
        raise UserError(f"{where} is neither text nor a list of blocks", hint=hint, field=where)
    out = []
    for at, block in enumerate(content):
        place = f"{where}[{at}]"
        if not isinstance(block, Mapping):
            hint = '{"type": "text", "text": ...}'
            raise UserError(f"{place} is not an object", hint=hint, field=place)
        out.append((str(block.get("type")), block, place))
    return out


def _asked(role: str, blocks: Sequence[tuple[str, Mapping[str, Any], str]]) -> list[Row]:
    """Results of tools are messages of their own, before what the user says besides."""
    results: list[Row] = []
    texts: list[str] = []
    for kind, block, where in blocks:
        if kind == "text":
            texts.append(_text(block, "text", where))
        elif kind == "tool_result" and role == "user":
            results.append(_result(block, where))
        else:
            raise _odd(kind, where, "text" if role == "system" else "text, tool_result")
    if texts or not results:
        results.append({"role": role, "content": "\n".join(texts)})
    return results


def _said(blocks: Sequence[tuple[str, Mapping[str, Any], str]]) -> list[Row]:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Row] = []
    for kind, block, where in blocks:
        if kind == "text":
            texts.append(_text(block, "text", where))
        elif kind == "thinking":
            thoughts.append(_text(block, "thinking", where))
        elif kind == "tool_use":
            calls.append(_call(block, where))
        elif kind != "redacted_thinking":  # which says nothing here
            raise _odd(kind, where, "text, thinking, tool_use")
    row: Row = {"role": "assistant", "content": "\n".join(texts)}
    if thoughts:
        row["reasoning"] = "\n".join(thoughts)
    if calls:
        row["tool_calls"] = calls
    return [row]


def _result(block: Mapping[str, Any], where: str) -> Row:
    content = block.get("content")
    parts = _blocks("" if content is None else content, f"{where}.content")
    for kind, _, place in parts:
        if kind != "text":
            raise _odd(kind, place, "text")
    text = "\n".join(_text(part, "text", place) for _, part, place in parts)
    return {"role": "tool", "tool_call_id": _text(block, "tool_use_id", where), "content": text}


def _call(block: Mapping[str, Any], where: str) -> Row:
    given = block.get("input", {})
    if not isinstance(given, Mapping):
        hint = "send the call's arguments as it had them"
        raise UserError(f"{where}.input is not an object", hint=hint, field=f"{where}.input")
    function = {"name": _text(block, "name", where), "arguments": given}
    return {"id": _text(block, "id", where), "type": "function", "function": function}


def _text(block: Mapping[str, Any], key: str, where: str) -> str:
    value = block.get(key)
    if not isinstance(value, str):
        hint = f"send {key} as text"
        raise UserError(f"{where}.{key} is missing or not text", hint=hint, field=f"{where}.{key}")
    return value


def _odd(kind: str, where: str, known: str) -> Unsupported:
    return Unsupported(
        f"{where} is of type {kind[:40]!r}; this model reads text only",
        hint=f"here there may be {known}",
        field=where,
    )
