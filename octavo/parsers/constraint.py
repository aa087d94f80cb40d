"""The grammar under which a format's calls fit the tools' schemas. Knows no grammar library.

The text is the structural-tag document that xgrammar documents and vLLM accepts
(`triggered_tags`): free text until a trigger, then one of the tags, each a fixed beginning,
JSON under a schema, a fixed end. It serves formats whose arguments are JSON right behind a
fixed beginning; the others (pythonic, XML) offer no constraint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from octavo.core.request import GrammarSpec
from octavo.parsers.machine import Tool, ToolChoice

ANY_OBJECT = {"type": "object"}


def structural_tag(
    tools: Sequence[Tool], choice: ToolChoice, trigger: str, frame: Callable[[str], tuple[str, str]]
) -> GrammarSpec | None:
    """`frame(name)` gives what stands before and after the arguments; each begins with `trigger`.

    None when no tool may be called.
    """
    allowed = [tool for tool in tools if choice.mode != "named" or tool.name == choice.name]
    if choice.mode == "none" or not allowed:
        return None
    tags = []
    for tool in allowed:
        begin, end = frame(tool.name)
        schema = dict(tool.parameters) or ANY_OBJECT
        content = {"type": "json_schema", "json_schema": schema}
        tags.append({"type": "tag", "begin": begin, "content": content, "end": end})
    shape = {
        "type": "triggered_tags",
        "triggers": [trigger],
        "tags": tags,
        "at_least_one": choice.mode in ("required", "named"),
        "stop_after_first": not choice.parallel,
    }
    return GrammarSpec("structural_tag", json.dumps({"type": "structural_tag", "format": shape}))
