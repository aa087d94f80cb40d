"""A constraint that begins after the model's reasoning, which stays free.

Written as a structural tag around the constraint, so that no backend has to know of reasoning.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import msgspec

from octavo.core.request import GrammarSpec, ThoughtLimit
from octavo.grammar.budget import ANY
from octavo.grammar.tags import from_structures

_GAP = {"type": "regex", "pattern": r"[ \t\r\n]{0,8}"}


class Thought(NamedTuple):
    """How reasoning is marked. `inside`: the prompt has opened it already."""

    open: str
    close: str
    inside: bool


def after_thought(spec: GrammarSpec, thought: Thought) -> GrammarSpec:
    """`spec` behind a thought, which may be left out unless the prompt has opened it. Lark and
    EBNF have rules of their own that cannot be enclosed: such a spec holds from the first token."""
    if (inner := _inner(spec)) is None:
        return spec
    begin = "" if thought.inside else thought.open
    tag = {"type": "tag", "begin": begin, "content": {"type": "any_text"}, "end": thought.close}
    whole: dict[str, Any] = {"type": "sequence", "elements": [tag, _GAP, inner]}
    if not thought.inside:
        whole = {"type": "or", "elements": [inner, whole]}
    text = json.dumps({"type": "structural_tag", "format": whole}, ensure_ascii=False, separators=(",", ":"))
    return GrammarSpec("structural_tag", text, spec.whitespace)


def limited(spec: GrammarSpec | None, thought: Thought, tokens: int) -> GrammarSpec:
    """`spec` (as `after_thought` gives it) with at most so many tokens of reasoning before it."""
    if spec is not None and spec.kind in ("lark", "ebnf"):
        return spec  # holds from the first token
    whole = spec or GrammarSpec(ANY, "")
    return msgspec.structs.replace(whole, thought=ThoughtLimit(*thought, tokens))


def _inner(spec: GrammarSpec) -> Any:
    """The constraint as a part of a structural tag; None when it cannot be one."""
    if spec.kind == "json":
        return {"type": "json_schema", "json_schema": json.loads(spec.text)}
    if spec.kind == "regex":
        return {"type": "regex", "pattern": spec.text}
    if spec.kind == "choice":
        return {"type": "or", "elements": [_word(one) for one in json.loads(spec.text)]}
    if spec.kind == "structural_tag":
        document = json.loads(spec.text)
        return document["format"] if "format" in document else from_structures(document)
    return None


def _word(text: str) -> dict[str, str]:
    return {"type": "const_string", "value": text}
