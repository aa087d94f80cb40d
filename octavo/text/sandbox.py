"""A Jinja environment for templates that came with a model: they are data, not trusted code.

Owns the conventions templates are written for and the limits they run under (time, output,
size of what they build). Knows nothing of messages.
"""

from __future__ import annotations

import datetime
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import BuiltinMethodType
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes
from jinja2.runtime import Context

from octavo.core.errors import UserError

MOST_SECONDS = 5.0
MOST_CHARACTERS = 32 << 20  # of a rendered prompt, or of anything built on the way
_WIDE = re.compile(r"\d{5,}|\*")  # a width in a % format
_WRITING = frozenset(
    "capitalize center e escape forceescape format indent lower pprint replace safe string striptags title "
    "tojson trim truncate upper urlencode urlize wordcount wordwrap xmlattr".split()
)  # filters that write out what they are given, lists too
_LIMITS = "_limits"  # users cannot set names that begin with "_"


class TooMuch(UserError):
    """A template ran over a limit."""


class Limits:
    """What one rendering may still use."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + MOST_SECONDS

    def tick(self) -> None:
        if self._clock() > self._end:
            raise TooMuch(
                f"the chat template ran longer than {MOST_SECONDS:.0f} s",
                hint="mend it or name another with --chat-template",
                field="chat_template",
            )

    def size(self, characters: int) -> None:
        if characters > MOST_CHARACTERS:
            raise TooMuch(
                f"the chat template built more than {MOST_CHARACTERS >> 20} Mi characters",
                hint="shorten the messages, or name another with --chat-template",
                field="messages",
            )


class Generation(jinja2.ext.Extension):
    """{% generation %} marks assistant text for training; here its content is simply shown."""

    tags = {"generation"}  # noqa: RUF012 (the base class's shape)

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """No attribute of Python's own, no changing of arguments, and every loop, call and product
    is counted against `Limits`."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, Generation]
        )
        self.filters["tojson"] = _tojson
        self.filters["_counted"] = _counted
        self.filters["_joined"] = _joined
        self.filters["_bounded"] = _bounded
        self.filters["join"] = _join
        self.filters["_shown"] = _shown
        self.finalize = _shown
        self.filters["replace"] = _replace
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = _filtered(loop.iter, "_counted")
        for joint in list(tree.find_all(nodes.Concat)):  # "~" has no other hook
            joint.nodes = [_filtered(nodes.List(list(joint.nodes)), "_joined")]
        for used in list(tree.find_all(nodes.Filter)):
            used.args = [_filtered(arg, "_bounded") for arg in used.args]
            if used.name in _WRITING and used.node is not None:
                used.node = _filtered(used.node, "_shown")
        return tree

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        limits = __context.get(_LIMITS)
        if limits is not None:
            limits.tick()
            limits.size(_call_size(__obj, args))
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        limits = context.get(_LIMITS)
        if limits is not None:
            limits.size(_product_size(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def run(self, template: jinja2.Template, variables: dict[str, Any], limits: Limits) -> str:
        parts, total = [], 0
        for part in template.generate(**variables, **{_LIMITS: limits}):
            limits.tick()
            total += len(part)
            limits.size(total)
            parts.append(part)
        return "".join(parts)


def _filtered(node: Any, name: str) -> nodes.Expr:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


@jinja2.pass_context
def _counted(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    limits = context.get(_LIMITS)
    for value in values:
        if limits is not None:
            limits.tick()
        yield value


@jinja2.pass_context
def _joined(context: Context, values: list[Any]) -> str:
    limits = context.get(_LIMITS)
    if limits is not None:
        limits.size(_weight(values))
    parts = [str(value) for value in values]
    return "".join(parts)


def _product_size(operator: str, left: Any, right: Any) -> int:
    """An upper bound of what an operator makes, in characters, items or digits."""
    if operator == "+":
        return _length(left) + _length(right)
    if operator == "*":
        return max(_weight(left), 1) * _factor(right) if _length(left) else _weight(right) * _factor(left)
    if operator == "**":
        return _factor(right) * max(_factor(left).bit_length(), 1)
    return MOST_CHARACTERS + 1 if isinstance(left, str) and _WIDE.search(left) else 0


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _weight(value: Any) -> int:
    """Characters that `value` has when it is written out, about; stops counting above the limit. One
    text may stand in a list a million times, and lists in lists: small until somebody writes them out."""
    total, left = 0, [value]
    while left and total <= MOST_CHARACTERS:
        one = left.pop()
        if isinstance(one, Mapping):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            left += one
        total += _length(one) + 1
    return total


@jinja2.pass_context
def _shown(context: Context, value: Any) -> Any:
    """Stands before everything that is written into the prompt."""
    limits = context.get(_LIMITS)
    if limits is not None and isinstance(value, list | tuple | Mapping):
        limits.size(_weight(value))
    return value


def _factor(value: Any) -> int:
    return abs(int(value)) if isinstance(value, int | float) else 0


def _call_size(function: Any, args: tuple[Any, ...]) -> int:
    """What a call may build: widths (ljust and its like), and two methods that multiply."""
    widest = max((abs(value) for value in args if isinstance(value, int)), default=0)
    if isinstance(function, BuiltinMethodType) and isinstance(function.__self__, str):
        if function.__name__ == "replace" and len(args) > 1:
            return _replaced_size(function.__self__, args[0], args[1])
        if function.__name__ == "join" and args and isinstance(args[0], list | tuple):
            return _joined_size(function.__self__, args[0])
    return widest


def _replaced_size(text: str, old: Any, new: Any) -> int:
    return len(text) + text.count(str(old)) * len(str(new))


def _joined_size(separator: str, values: Iterable[Any]) -> int:
    return sum(len(separator) + _weight(value) for value in values)


@jinja2.pass_context
def _bounded(context: Context, value: Any) -> Any:
    """An argument of a filter: none takes a number that large (center, indent, ...)."""
    limits = context.get(_LIMITS)
    if limits is not None and isinstance(value, int):
        limits.size(abs(value))
    return value


@jinja2.pass_context
def _join(context: Context, values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    rows = list(values)
    limits = context.get(_LIMITS)
    if limits is not None:
        limits.size(_joined_size(d, rows))
    if attribute is not None:
        rows = [context.environment.getitem(row, attribute) for row in rows]
    return d.join(str(row) for row in rows)


@jinja2.pass_context
def _replace(context: Context, text: Any, old: Any, new: Any, count: int = -1) -> str:
    limits = context.get(_LIMITS)
    if limits is not None:
        limits.size(_replaced_size(str(text), old, new))
    return str(text).replace(str(old), str(new), -1 if count is None else count)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: Jinja's own escapes <, > and & for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: Any) -> None:
    raise UserError(
        f"the chat template refuses these messages: {str(message)[:300]}",
        hint="change them as it says, or name another with --chat-template",
        field="messages",
    )


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)
