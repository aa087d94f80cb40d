"""Calls written as Python, read into JSON: `name(key=value, ...)` with literal values.

Nothing is evaluated: strings, numbers, True/False/None, lists, tuples and dicts, nested at most
MAX_DEPTH deep. Anything else is no literal, and the call is no call.
"""

from __future__ import annotations

import json

from octavo.parsers.machine import NAME_LIMIT, is_name
from octavo.parsers.splitter import Parse, Splitter

MAX_DEPTH = 64
NUMBER_LIMIT = 400  # characters; far beyond any float, and int() stays cheap

WORDS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
ESCAPES = {
    "n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0",
    "\\": "\\", "'": "'", '"': '"', "\n": "",
}  # fmt: skip
HEX_ESCAPES = {"x": 2, "u": 4, "U": 8}


def call(s: Splitter) -> Parse[tuple[str, str] | None]:
    """(name, arguments as JSON) of the call that stands here; None if none does."""
    name = yield from s.run(_in_name, NAME_LIMIT + 1)
    yield from s.spaces()
    if not is_name(name) or not (yield from s.literal("(")):
        return None
    members: list[str] = []
    seen: set[str] = set()
    yield from s.spaces()
    while not (yield from s.literal(")")):
        key = yield from s.run(_in_name, NAME_LIMIT + 1)
        yield from s.spaces()
        if not is_name(key) or key in seen or not (yield from s.literal("=")):
            return None
        value = yield from literal(s, MAX_DEPTH)
        if value is None or not (yield from _more(s, ")")):
            return None
        seen.add(key)
        members.append(f"{json.dumps(key, ensure_ascii=False)}: {value}")
    return name, "{" + ", ".join(members) + "}"


def _in_name(char: str) -> bool:
    return char.isalnum() or char in "_.-"


def _more(s: Splitter, closer: str) -> Parse[bool]:
    """After an element: a comma consumed, or the closer left standing."""
    yield from s.spaces()
    comma = yield from s.literal(",")
    yield from s.spaces()
    return bool(comma) or (yield from s.peek()) == closer


def literal(s: Splitter, depth: int) -> Parse[str | None]:
    """The Python literal that stands here, as JSON text; None if none does. `depth` more may nest."""
    yield from s.spaces()
    char = yield from s.peek()
    if char and char in "'\"":
        return (yield from _string(s))
    if char and char in "[(":
        return (yield from _sequence(s, depth))
    if char == "{":
        return (yield from _dict(s, depth))
    if char and (char.isdigit() or char in "+-."):
        return _number((yield from s.run(lambda c: c.isalnum() or c in "+-._", NUMBER_LIMIT)))
    return WORDS.get((yield from s.run(str.isalnum, 8)))


def _number(text: str) -> str | None:
    try:
        return str(int(text))
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        return None
    return repr(value) if value - value == 0 else None  # inf and nan are no JSON


def _string(s: Splitter) -> Parse[str | None]:
    quote = yield from s.take()
    if (yield from s.literal(quote * 2)):
        quote *= 3
    pieces: list[str] = []
    while True:
        text, stop = yield from s.until("\\", quote)
        pieces.append(text)
        if stop == quote:
            break
        escaped = (yield from _escape(s)) if stop else None
        if escaped is None:
            return None
        pieces.append(escaped)
    try:
        text = "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:  # half a surrogate pair
        return None
    return json.dumps(text, ensure_ascii=False)


def _escape(s: Splitter) -> Parse[str | None]:
    char = yield from s.take()
    if char in HEX_ESCAPES:
        width = HEX_ESCAPES[char]
        digits = yield from s.run("0123456789abcdefABCDEF".__contains__, width)
        code = int(digits, 16) if len(digits) == width else -1
        return chr(code) if 0 <= code <= 0x10FFFF else None
    if char == "":
        return None
    return ESCAPES.get(char, "\\" + char)


def _sequence(s: Splitter, depth: int) -> Parse[str | None]:
    closer = "]" if (yield from s.take()) == "[" else ")"
    items: list[str] = []
    yield from s.spaces()
    while depth > 0 and not (yield from s.literal(closer)):
        item = yield from literal(s, depth - 1)
        if item is None or not (yield from _more(s, closer)):
            return None
        items.append(item)
    return "[" + ", ".join(items) + "]" if depth > 0 else None


def _dict(s: Splitter, depth: int) -> Parse[str | None]:
    yield from s.take()
    members: list[str] = []
    yield from s.spaces()
    while depth > 0 and not (yield from s.literal("}")):
        key = yield from literal(s, 0)
        yield from s.spaces()
        if key is None or not (yield from s.literal(":")):
            return None
        value = yield from literal(s, depth - 1)
        if value is None or not (yield from _more(s, "}")):
            return None
        members.append(f"{key if key.startswith(chr(34)) else json.dumps(key)}: {value}")
    return "{" + ", ".join(members) + "}" if depth > 0 else None


def value_of(text: str) -> str | None:
    """The one Python literal that is the whole of `text`, as JSON text; None if it is not one."""
    s = Splitter()
    s.add(text)
    s.ended = True
    reading = literal(s, MAX_DEPTH)
    try:
        while True:
            next(reading)
    except StopIteration as done:
        value: str | None = done.value
    return value if value is not None and s.rest().strip() == "" else None
