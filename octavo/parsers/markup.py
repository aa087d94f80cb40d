"""Arguments as markup, one element a parameter: what Qwen3-Coder and GLM-4.5 have in common.

The values are bare text; the tool's schema says which are strings. Strings are passed on as they
arrive, others when they are whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from octavo.parsers.events import CallArguments, Text
from octavo.parsers.machine import NAME_LIMIT, Machine
from octavo.parsers.splitter import Parse
from octavo.parsers.typed import convert, quoted, types_of


@dataclass(frozen=True, slots=True)
class Markup:
    """The tags of one format. `name_close` ends a tool's name; `value_open` "" means the value follows the
    key at once."""

    name_close: str
    key_open: str
    key_close: str
    value_open: str
    value_ends: tuple[str, ...]
    close: str
    untyped_is_string: bool  # what a parameter is that the schema does not type

    def member(self, first: bool, key: str) -> str:
        return ("{" if first else ", ") + quoted(key) + ": "


def arguments(m: Machine, form: Markup, name: str, tag: str = "") -> Parse[None]:
    """Say the arguments of the call begun last, up to `form.close`.

    tag: the key_open or close that was already consumed. Where something else stands than the
    format has, the call ends with what it has and the rest is Text.
    """
    s = m.source
    first, broken = True, ""
    while True:
        if not tag:
            yield from s.spaces()
            tag = yield from s.literal(form.key_open, form.close)
        if tag != form.key_open:
            break
        s.mark()
        key = yield from _key(m, form)
        if key is None:
            broken = tag + s.taken()
            break
        s.taken()
        if not (yield from _value(m, form, name, key, first)):
            return
        first, tag = False, ""
    if tag == form.close or (yield from s.peek()):  # else cut off: the call stays open
        yield m.arguments("{}" if first else "}")
        yield m.end()
    if broken:
        yield Text(broken)


def _key(m: Machine, form: Markup) -> Parse[str | None]:
    s = m.source
    key, stop = yield from s.until(form.key_close, limit=NAME_LIMIT)
    if not stop:
        return None
    if form.value_open:
        yield from s.spaces()
        if not (yield from s.literal(form.value_open)):
            return None
    return key.strip()


def _value(m: Machine, form: Markup, name: str, key: str, first: bool) -> Parse[bool]:
    """False: the text ended inside the value."""
    s = m.source
    if not form.value_open:
        yield from s.literal("\n")
    types = types_of(m.tools.get(name), key)
    before = form.member(first, key)
    if types == {"string"} or (not types and form.untyped_is_string):

        def piece(text: str) -> CallArguments:
            return m.arguments(quoted(text)[1:-1])

        yield m.arguments(before + '"')
        if not (yield from s.stream(piece, *form.value_ends)):
            return False
        yield m.arguments('"')
        return True
    text, stop = yield from s.until(*form.value_ends)
    yield m.arguments(before + (convert(text, types) if stop else text))
    return bool(stop)
