"""Kimi K2: `<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{...}<|tool_call_end|>`.

The header is the call's id; the model wants to see it again in the history, so it is passed on.
"""

from __future__ import annotations

from collections.abc import Sequence

from octavo.core.request import GrammarSpec
from octavo.parsers.constraint import Node, json_arguments, structural_tag
from octavo.parsers.json_scan import Outcome, plain_call
from octavo.parsers.machine import TOOLS, Tool, ToolChoice, is_name
from octavo.parsers.sectioned import Sectioned
from octavo.parsers.splitter import Parse


@TOOLS.register("kimi_k2")
class KimiK2(Sectioned):
    """Broken before the arguments: Text, tags included. Broken inside them: a call without end."""

    section = "<|tool_calls_section_begin|>"
    call = "<|tool_call_begin|>"
    separator = "<|tool_call_argument_begin|>"
    end_call = "<|tool_call_end|>"
    end_section = "<|tool_calls_section_end|>"

    def one(self, header: str) -> Parse[Outcome]:
        name, colon, number = header.rpartition(":")
        if not (colon and number.isdigit()):
            name = header
        name = name.removeprefix("functions.")
        yield from self.source.spaces()
        if not is_name(name):
            return Outcome.NONE
        return (yield from plain_call(self, name, header, self.end_call))

    def constraint(self, tools: Sequence[Tool], choice: ToolChoice) -> GrammarSpec | None:
        def frame(name: str) -> tuple[str, str]:
            return f"{self.call}functions.{name}:", self.end_call

        def arguments(tool: Tool) -> Node:
            number = {"type": "regex", "pattern": "[0-9]{1,4}"}
            between = {"type": "const_string", "value": self.separator}
            return {"type": "sequence", "elements": [number, between, json_arguments(tool)]}

        return structural_tag(tools, choice, self.call, frame, arguments=arguments)
