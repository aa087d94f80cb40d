"""`<|tool_call|>[{"name": ..., "arguments": {...}}]`: Granite 3.x. Others had other tags.

Granite 3.0 wrote `<tool_call>[...]`, the 20b function-calling model `<function_call> {...}`, one
tag a call. None has a closing tag that must come. Granite 4 writes Hermes.
"""

from __future__ import annotations

from octavo.parsers.machine import TOOLS
from octavo.parsers.tagged import TaggedJson


@TOOLS.register("granite", "granite-20b-fc")
class Granite(TaggedJson):
    """Broken before the arguments: Text, tags included. Broken inside them: a call without end."""

    opens = ("<|tool_call|>", "<tool_call>", "<function_call>")
    closes = ("</tool_call>", "</function_call>")
    before = "<|tool_call|>["
    after = "]"
