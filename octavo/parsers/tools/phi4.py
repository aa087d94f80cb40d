"""`functools[{"name": ..., "arguments": {...}}]`, or in `<|tool_call|>` tokens: Phi-4 mini."""

from __future__ import annotations

from octavo.parsers.machine import TOOLS
from octavo.parsers.tagged import TaggedJson


@TOOLS.register("phi4_mini_json", "phi4_mini", "phi4")
class Phi4(TaggedJson):
    """`functools` without a call behind it is a word like any other."""

    opens = ("functools", "<|tool_call|>")
    closes = ("<|/tool_call|>",)
    before = "functools["
    after = "]"
