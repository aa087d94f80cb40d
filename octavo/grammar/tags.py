"""Structural tags: free text in which given beginnings start a part with a form of its own.

Reads the JSON document that xgrammar describes and vLLM accepts (the newer one with `format` and
the older one with `structures` and `triggers`) and writes it as a Lark grammar of llguidance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from octavo.core.errors import UserError

_TEXT = r"TEXT: /(.|\n)*/"
Node = Mapping[str, Any]


class Terms(NamedTuple):
    """How a leaf is written as a term of the grammar."""

    string: Callable[[str], str]
    regex: Callable[[str], str]
    schema: Callable[[Any], str]


class TagGrammar:
    """Collects rules, one for each node. `specials` are texts of tokens that no other tokens spell."""

    def __init__(self, specials: Collection[str], terms: Terms) -> None:
        texts = sorted((text for text in specials if text), key=len, reverse=True)
        self._special = re.compile("(" + "|".join(map(re.escape, texts)) + ")") if texts else None
        self._terms = terms
        self._rules: list[str] = []
        self._kinds: dict[str, Callable[[Node], str]] = {
            "const_string": lambda node: self._text(_string(node, "value")),
            "regex": lambda node: terms.regex(_string(node, "pattern")),
            "json_schema": lambda node: terms.schema(node["json_schema"]),
            "any_text": lambda node: "TEXT",
            "sequence": lambda node: " ".join(map(self._rule, _list(node, "elements"))),
            "or": lambda node: " | ".join(map(self._rule, _list(node, "elements"))),
            "tag": lambda node: self._whole_tag(_string(node, "begin"), node),
            "triggered_tags": self._triggered,
            "tags_with_separator": self._separated,
        }

    def read(self, text: str) -> str:
        """The whole grammar. UserError names the part of the document that cannot be."""
        document = json.loads(text)
        start = self._rule(document["format"] if "format" in document else from_structures(document))
        return "\n".join([f"start: {start}", *self._rules, _TEXT])

    def _rule(self, node: Any) -> str:
        """The name of a rule for this node."""
        kind = node.get("type") if isinstance(node, Mapping) else None
        if not isinstance(kind, str) or kind not in self._kinds:
            raise UserError(f"unknown type {str(kind)[:40]!r} in it (known: {', '.join(self._kinds)})")
        try:
            return self._named(self._kinds[kind](node))
        except KeyError as missing:
            raise UserError(f"a {kind} in it lacks {missing}") from missing

    def _named(self, body: str, mark: str = "") -> str:
        name = f"part_{len(self._rules)}"
        self._rules.append(f"{name}{mark}: {body}")
        return name

    def _whole_tag(self, begin: str, tag: Node) -> str:
        """`begin` is what is left of the tag's beginning; its content and end follow."""
        end = _string(tag, "end")
        content = tag["content"]
        if isinstance(content, Mapping) and content.get("type") == "any_text" and end:
            return f"{self._text(begin)} {self._text_until(end)}"
        return f"{self._text(begin)} {self._rule(content)} {self._text(end)}"

    def _triggered(self, node: Node) -> str:
        triggers, tags = _list(node, "triggers"), _list(node, "tags")
        first, later = [], []
        for tag in tags:
            begin = _string(tag, "begin")
            trigger = next((one for one in triggers if one and begin.startswith(one)), None)
            if trigger is None:
                raise UserError(f"the tag that begins with {begin[:40]!r} has no trigger")
            first.append(self._named(self._whole_tag(begin, tag)))
            rest = self._whole_tag(begin[len(trigger) :], tag)
            later.append(self._named(f"{self._text_until(trigger)} {rest}"))
        one, more = f"({' | '.join(first)})", f"({' | '.join(later)})"
        if node.get("at_least_one"):  # at once: a model may otherwise never come to it
            return one if node.get("stop_after_first") else f"{one} {more}* TEXT"
        return f"TEXT | {more}" if node.get("stop_after_first") else f"{more}* TEXT"

    def _separated(self, node: Node) -> str:
        """Nothing but tags, between them the separator."""
        tags = (self._named(self._whole_tag(_string(tag, "begin"), tag)) for tag in _list(node, "tags"))
        one = f"({' | '.join(tags)})"
        more = "" if node.get("stop_after_first") else f"({self._text(_string(node, 'separator'))} {one})*"
        return f"{one} {more}" if node.get("at_least_one") else f"({one} {more})?"

    def _text_until(self, mark: str) -> str:
        """Free text, ended by the first `mark`."""
        head, *rest = self._pieces(mark)
        if head.startswith("<"):
            return " ".join(["TEXT", head, *rest])
        return " ".join([self._named(f"TEXT {head}", "[lazy]"), *rest])

    def _text(self, text: str) -> str:
        return " ".join(self._pieces(text))

    def _pieces(self, text: str) -> list[str]:
        """The text as terms: strings, and the special tokens in it by name."""
        parts = self._special.split(text) if self._special else [text]
        return [self._piece(part, at % 2 == 1) for at, part in enumerate(parts) if part]

    def _piece(self, part: str, special: bool) -> str:
        plain = not special or not re.fullmatch(r"<[^<>\s]+>", part)
        return self._terms.string(part) if plain else part


def from_structures(document: Node) -> Node:
    """The older form: each structure has begin, schema, end."""
    tags = [
        {
            "begin": one["begin"],
            "content": {"type": "json_schema", "json_schema": one["schema"]},
            "end": one["end"],
        }
        for one in _list(document, "structures")
        if isinstance(one, Mapping) and {"begin", "schema", "end"} <= one.keys()
    ]
    if len(tags) != len(document["structures"]):
        raise UserError("each of its structures needs begin, schema and end")
    return {"type": "triggered_tags", "triggers": _list(document, "triggers"), "tags": tags}


def _string(node: Any, key: str) -> str:
    value = node[key] if isinstance(node, Mapping) else None
    if not isinstance(value, str):
        raise UserError(f"{key} in it is not text")
    return value


def _list(node: Node, key: str) -> Sequence[Any]:
    value = node.get(key)
    if not isinstance(value, list) or not value:
        raise UserError(f"it has no list of {key}")
    return value
