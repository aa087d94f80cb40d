"""`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen 2.5 and 3, Granite 4, SmolLM3."""

from __future__ import annotations

from octavo.parsers.machine import TOOLS
from octavo.parsers.tagged import TaggedJson


@TOOLS.register("hermes", "qwen", "qwen25", "granite4")
class Hermes(TaggedJson):
    """Broken before the arguments: Text, tags included. Broken inside them: a call without end."""

    opens = ("<tool_call>",)
    closes = ("</tool_call>",)
    before = "<tool_call>\n"
    after = "\n</tool_call>"
