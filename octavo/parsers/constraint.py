"""The grammar under which a format's calls fit the tools' schemas. Knows no grammar library.

The text is the structural-tag document that xgrammar documents and vLLM accepts: free text until
a trigger, then one of the tags (`triggered_tags`), or nothing but tags (`tags_with_separator`);
each is a fixed beginning, arguments under a schema, a fixed end. Bare Python calls offer no constraint:
nothing tells their beginning from any other text's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from octavo.core.request import GrammarSpec
from octavo.parsers.machine import Tool, ToolChoice

ANY_OBJECT = {"type": "object"}
Node = Mapping[str, Any]


def json_arguments(tool: Tool) -> Node:
    return {"type": "json_schema", "json_schema": dict(tool.parameters) or ANY_OBJECT}


def structural_tag(
    tools: Sequence[Tool],
    choice: ToolChoice,
    trigger: str,
    frame: Callable[[str], tuple[str, str]],
    separator: str = "",
    arguments: Callable[[Tool], Node | None] = json_arguments,
) -> GrammarSpec | None:
    """`frame(name)` gives what stands before and after the arguments; each begins with `trigger`.
    Where a call is required the answer is nothing but calls, with `separator` between them.

    None when no tool may be called, or the `arguments` of one have no form.
    """
    allowed = [tool for tool in tools if choice.mode != "named" or tool.name == choice.name]
    if choice.mode == "none" or not allowed:
        return None
    tags = []
    for tool in allowed:
        begin, end = frame(tool.name)
        content = arguments(tool)
        if content is None:
            return None
        tags.append({"type": "tag", "begin": begin, "content": content, "end": end})
    shape: dict[str, Any] = {"tags": tags, "stop_after_first": not choice.parallel}
    if choice.mode in ("required", "named"):
        shape |= {"type": "tags_with_separator", "separator": separator, "at_least_one": True}
    else:
        shape |= {"type": "triggered_tags", "triggers": [trigger], "at_least_one": False}
    return GrammarSpec("structural_tag", json.dumps({"type": "structural_tag", "format": shape}))
