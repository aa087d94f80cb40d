"""Tools for models whose chat template does not know them: told in words, in the first message.

Calls and results of the conversation so far become text as well, in the same form (Hermes), so any
instruction-tuned model can be asked to call tools. Knows no wire type.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_BEFORE = "You can call these tools:"
_AFTER = (
    "To call one, answer with\n<tool_call>\n"
    '{"name": "the tool\'s name", "arguments": {its arguments}}\n</tool_call>\n'
    "Call a tool only when it helps; otherwise answer in words."
)
Message = dict[str, Any]


def teach(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """`messages` as clean_messages returns them. Only what mentions tools is changed."""
    rows: list[Message] = []
    for message in messages:
        row = _in_words(message)
        if message["role"] == "tool" and rows and rows[-1].get("role") == "user" and _answers(rows[-1]):
            rows[-1] = {**rows[-1], "content": f"{rows[-1]['content']}\n{row['content']}"}
        else:
            rows.append(row)
    return _told(rows, tools) if tools else rows


def _told(rows: list[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    listed = "\n".join(_dump(tool.get("function", tool)) for tool in tools)
    text = f"{_BEFORE}\n{listed}\n{_AFTER}"
    first = rows[0]
    if first["role"] in ("system", "developer"):
        return [{**first, "content": f"{first['content']}\n\n{text}".lstrip()}, *rows[1:]]
    return [{"role": "system", "content": text}, *rows]


def _in_words(message: Message) -> Message:
    """Templates that know no tools know neither the role nor the field."""
    if message["role"] == "tool":
        return {"role": "user", "content": f"{_RESULT}\n{message['content']}\n</tool_response>"}
    calls = message.get("tool_calls")
    if not calls:
        return message
    texts = [message["content"], *(_call(call["function"]) for call in calls)]
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**rest, "content": "\n".join(text for text in texts if text)}


_RESULT = "<tool_response>"


def _answers(row: Message) -> bool:
    return str(row["content"]).startswith(_RESULT)


def _call(function: Mapping[str, Any]) -> str:
    call = {"name": function["name"], "arguments": function.get("arguments", {})}
    return f"<tool_call>\n{_dump(call)}\n</tool_call>"


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
