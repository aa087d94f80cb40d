"""Items of a conversation to the messages that chats are made of. Knows no route and no store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from octavo.core.errors import EngineError, Unsupported, UserError
from octavo.text.chat import clean_messages

MOST_ITEMS = 4096
Item = Mapping[str, Any]
_KINDS = "message, function_call, function_call_output, reasoning"
_THOUGHTS = ("reasoning_text", "summary_text")


def to_messages(items: Sequence[Item], own: int) -> list[dict[str, Any]]:
    """What one speaker says in a row is one message. `own` is where the request's own items begin:
    UserError names their places."""
    if len(items) > MOST_ITEMS:
        hint = "leave the oldest out, or begin a new conversation"
        raise UserError(f"{len(items)} items, the limit is {MOST_ITEMS}", hint=hint, field="input")
    reader = _Reader()
    for at, item in enumerate(items):
        reader.read(item, f"input[{at - own}]" if at >= own else "previous_response_id")
    return reader.messages


class _Reader:
    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._turn: dict[str, Any] | None = None  # the assistant's, while it goes on
        self._names: dict[str, str] = {}  # of the functions called, by the id of the call

    def read(self, item: Any, where: str) -> None:
        if not isinstance(item, Mapping):
            raise UserError(f"{where} is not an object", hint=f"an item is one of {_KINDS}", field=where)
        kind = item.get("type") or ("message" if "role" in item else None)
        if kind == "message":
            self._message(item, where)
        elif kind == "function_call":
            self._call(item, where)
        elif kind == "function_call_output":
            self._result(item, where)
        elif kind == "reasoning":
            self._thought(item, where)
        elif kind == "item_reference":
            hint = "send the item itself, or previous_response_id"
            raise Unsupported(f"{where} refers to an item, which is not available", hint=hint, field=where)
        else:
            raise Unsupported(
                f"{where} is of type {str(kind)[:40]!r}", hint=f"one of {_KINDS}", field=f"{where}.type"
            )

    def _message(self, item: Item, where: str) -> None:
        row = {key: item[key] for key in ("role", "content", "name") if item.get(key) is not None}
        (clean,) = _checked([row], where)
        if clean["role"] != "assistant":
            self._turn = None
            self.messages.append(clean)
            return
        turn = self._assistant()
        turn["content"] = "\n".join(text for text in (turn.get("content"), clean["content"]) if text)

    def _call(self, item: Item, where: str) -> None:
        id = _text(item, "call_id", where)
        function = {"name": _text(item, "name", where), "arguments": item.get("arguments") or "{}"}
        call = {"id": id, "type": "function", "function": function}
        _checked([{"role": "assistant", "tool_calls": [call]}], where)
        self._names[id] = function["name"]
        self._assistant().setdefault("tool_calls", []).append(call)

    def _result(self, item: Item, where: str) -> None:
        id = _text(item, "call_id", where)
        if id not in self._names:
            raise UserError(
                f"{where}.call_id: there is no function_call {id[:128]!r} before it",
                hint="send the call as well, or previous_response_id",
                field=f"{where}.call_id",
            )
        row = {"role": "tool", "tool_call_id": id, "name": self._names[id], "content": item.get("output")}
        self._turn = None
        self.messages += _checked([row], where)

    def _thought(self, item: Item, where: str) -> None:
        """Its text, or its summary; what is encrypted elsewhere says nothing here."""
        parts = item.get("content") or item.get("summary") or []
        rows = parts if isinstance(parts, list) else [{}]
        texts = [part.get("text") for part in rows if _is_thought(part)]
        if not all(isinstance(text, str) for text in texts):
            hint = '{"type": "reasoning", "content": [{"type": "reasoning_text", "text": ...}]}'
            raise UserError(f"{where} holds no texts", hint=hint, field=where)
        if texts:
            turn = self._assistant()
            turn["reasoning"] = "\n".join(text for text in (turn.get("reasoning"), *texts) if text)

    def _assistant(self) -> dict[str, Any]:
        if self._turn is None:
            self._turn = {"role": "assistant", "content": ""}
            self.messages.append(self._turn)
        return self._turn


def _is_thought(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type", "reasoning_text") in _THOUGHTS


def _text(item: Item, key: str, where: str) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= 256:
        hint = f"send {key} as it was told"
        what = f"{where}.{key} is not text of 1 to 256 characters"
        raise UserError(what, hint=hint, field=f"{where}.{key}")
    return value


def _checked(rows: Iterable[Mapping[str, Any]], where: str) -> list[dict[str, Any]]:
    """As chats are checked, with the item's place in what is wrong."""
    try:
        return clean_messages(list(rows))
    except EngineError as error:
        place, path = "messages[0]", (".tool_calls[0].function", "")
        texts = (error.message, error.field or "")
        message, field = (text.replace(place, where).replace(*path) for text in texts)
        raise type(error)(message, hint=error.hint, field=field) from None
