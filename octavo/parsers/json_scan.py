"""JSON as it arrives: strings, balanced values, and `{"name": ..., "arguments": {...}}`.

Arguments are passed on as the model wrote them, piece by piece; only brackets and strings are
followed, in constant memory. Whether they are valid, and fit the schema, is for the client to
see (or for a grammar to ensure): half a call is of more use than none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum

from octavo.parsers.events import Text
from octavo.parsers.machine import Machine, is_name
from octavo.parsers.splitter import Parse, Splitter

MAX_DEPTH = 200  # brackets in brackets; deeper would exhaust whoever parses the arguments next
HEAD_LIMIT = 4096  # characters of one string outside the arguments (names, ids)

ARGUMENTS = ("arguments", "parameters")
MAY_BE_THERE = ("id", "type", "index", "call_id")  # scalars that say nothing of the call


class Balance:
    """Follows one value that begins with a bracket. `done` at its end; `broken` where it cannot go on.

    Outside strings `<` stands in no JSON, so it can only be the tag that ends the call.
    """

    def __init__(self) -> None:
        self.depth = 0
        self.done = False
        self.broken = False
        self._quoted = False
        self._escaped = False

    def scan(self, text: str, start: int) -> int:
        """Index after the last character that belongs to the value."""
        at = start
        while at < len(text) and not self.done and not self.broken:
            at = self._string(text, at) if self._quoted else self._structure(text, at)
        return at

    def _string(self, text: str, at: int) -> int:
        char = text[at]
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._quoted = False
        return at + 1

    def _structure(self, text: str, at: int) -> int:
        char = text[at]
        if char == '"':
            self._quoted = True
        elif char in "{[":
            self.depth += 1
            self.broken = self.depth > MAX_DEPTH
        elif char in "}]":
            self.depth -= 1
            self.done = self.depth == 0
        elif char == "<":
            self.broken = True
        return at if self.broken else at + 1


def string(s: Splitter, limit: int | None = HEAD_LIMIT) -> Parse[str | None]:
    """The JSON string that stands here, decoded; None where none does, or it is broken."""
    if (yield from s.literal('"')) == "":
        return None
    pieces = ['"']
    count = 0
    while True:
        text, stop = yield from s.until("\\", '"', limit=None if limit is None else limit - count)
        count += len(text) + 2
        pieces += [text, stop]
        if stop == "" or (limit is not None and count > limit):
            return None
        if stop == '"':
            return _decoded("".join(pieces))
        pieces.append((yield from s.take()))


def _decoded(quoted: str) -> str | None:
    try:
        value = json.loads(quoted, strict=False)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def stream_value(m: Machine, balance: Balance) -> Parse[bool]:
    """Say the bracketed value that stands here as arguments. False: it broke, or the text ended."""
    while not balance.done and not balance.broken:
        if (yield from m.source.peek()) == "":
            return False
        piece = m.source.scan(balance.scan)
        if piece:
            yield m.arguments(piece)
    return balance.done


def held_value(s: Splitter) -> Parse[str | None]:
    """The bracketed value that stands here, whole; None if it broke or the text ended."""
    balance = Balance()
    pieces: list[str] = []
    while not balance.done:
        if balance.broken or (yield from s.peek()) == "":
            return None
        pieces.append(s.scan(balance.scan))
    return "".join(pieces)


class Outcome(Enum):
    """How reading a call went."""

    NONE = "no call; what was read is in `source.taken()`"
    OPEN = "begun, and cut off or broken inside its arguments"
    DONE = "whole"


@dataclass(slots=True)
class _Head:
    """The members read so far."""

    name: str | None = None
    arguments: str | None = None


def call_object(m: Machine, *, bare: bool = False) -> Parse[Outcome]:
    """Reads one call object and says the call.

    bare: no tag announced it, so it must name a known tool and have arguments. A member that
    belongs to no call makes it no call; after the arguments it ends the call and is Text.
    The caller has set the mark.
    """
    s = m.source
    head = _Head()
    key = yield from _member(s, "{")
    while key:
        if not (yield from _head_member(m, head, key, bare)):
            return Outcome.NONE
        if head.name is not None and key in ARGUMENTS and head.arguments is None:
            return (yield from _stream_call(m, head.name))
        if head.name is not None and head.arguments is not None:
            yield from say_call(m, head.name, head.arguments)
            return (yield from _tail(m))
        key = yield from _member(s, ",")
    if key is None or head.name is None or head.arguments is not None or bare:
        return Outcome.NONE
    s.taken()
    yield from say_call(m, head.name, "{}")
    return Outcome.DONE


def _member(s: Splitter, before: str) -> Parse[str | None]:
    """The key of the next member, its colon consumed; "" at the object's end, None if broken."""
    yield from s.spaces()
    if (yield from s.literal("}")):
        return None if before == "{" else ""
    if not (yield from s.literal(before)):
        return None
    yield from s.spaces()
    key = yield from string(s)
    yield from s.spaces()
    if key and (yield from s.literal(":")):
        yield from s.spaces()
        return key
    return None


def _head_member(m: Machine, head: _Head, key: str, bare: bool) -> Parse[bool]:
    """Reads one member's value, except arguments that can be streamed. False: no call."""
    s = m.source
    if key == "name" and head.name is None:
        head.name = yield from string(s)
        return head.name is not None and is_name(head.name) and not (bare and not m.known(head.name))
    if key in ARGUMENTS and head.arguments is None:
        if (yield from s.peek()) == "{":
            if head.name is None:
                head.arguments = yield from held_value(s)
                return head.arguments is not None
            return True
        head.arguments = yield from _odd_arguments(s)
        return head.arguments is not None
    return key in MAY_BE_THERE and (yield from _scalar(s))


def _odd_arguments(s: Splitter) -> Parse[str | None]:
    """Arguments that are not an object: an object encoded as a string, or null for none."""
    if (yield from s.literal("null")):
        return "{}"
    decoded = yield from string(s, None)
    if decoded is None or not decoded.strip():
        return decoded and "{}"
    return decoded if decoded.lstrip().startswith("{") else None


def _scalar(s: Splitter) -> Parse[bool]:
    """A string, number or word that nobody needs."""
    if (yield from s.peek()) == '"':
        return (yield from string(s)) is not None
    return (yield from s.run(lambda c: c.isalnum() or c in "+-.", HEAD_LIMIT)) != ""


def say_call(m: Machine, name: str, arguments: str, id: str = "") -> Parse[None]:
    """A call whose arguments are known whole."""
    m.source.taken()
    yield m.start(name, id)
    yield m.arguments(arguments)
    yield m.end()


def _stream_call(m: Machine, name: str) -> Parse[Outcome]:
    m.source.taken()
    yield m.start(name)
    if not (yield from stream_value(m, Balance())):
        return Outcome.OPEN
    yield m.end()
    return (yield from _tail(m))


def _tail(m: Machine) -> Parse[Outcome]:
    """The rest of the object after its arguments. What does not belong there is Text."""
    s = m.source
    s.mark()
    key = yield from _member(s, ",")
    while key in MAY_BE_THERE and (yield from _scalar(s)):
        key = yield from _member(s, ",")
    rest = s.taken()
    if key != "" and rest:
        yield Text(rest)
    return Outcome.DONE


def call_list(m: Machine, *, bare: bool = False) -> Parse[Outcome]:
    """`[{...}, {...}]`. NONE as long as no call was said; the caller has set the mark."""
    s = m.source
    outcome = Outcome.NONE
    separator = "["
    while (yield from s.literal(separator)):
        yield from s.spaces()
        one = yield from call_object(m, bare=bare)
        if one is Outcome.DONE:
            outcome, separator = one, ","
            s.mark()
            yield from s.spaces()
            continue
        if one is Outcome.OPEN:
            return one
        if outcome is Outcome.DONE:
            yield Text(s.taken())
        return outcome
    if outcome is Outcome.DONE:
        closed = yield from s.literal("]")
        rest = s.taken()
        if not closed and rest:
            yield Text(rest)
    return outcome


def calls(m: Machine, *, bare: bool = False) -> Parse[Outcome]:
    """A call object or a list of them, whichever stands here."""
    if (yield from m.source.peek()) == "[":
        return (yield from call_list(m, bare=bare))
    return (yield from call_object(m, bare=bare))


def plain_call(m: Machine, name: str, id: str, *ends: str) -> Parse[Outcome]:
    """The arguments that stand by themselves after a name, and with them the call.

    An object, a string of one, null, or nothing before one of the end tags. The caller has
    set the mark and skipped blanks.
    """
    s = m.source
    if (yield from s.peek()) == "{":
        s.taken()
        yield m.start(name, id)
        if not (yield from stream_value(m, Balance())):
            return Outcome.OPEN
        yield m.end()
        return Outcome.DONE
    empty = yield from s.literal(*ends)
    text = "{}" if empty else (yield from _odd_arguments(s))
    if text is None:
        return Outcome.NONE
    yield from say_call(m, name, text, id)
    return Outcome.DONE
