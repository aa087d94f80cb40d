"""DeepSeek V3 and R1 (`function<sep>name`, fenced JSON), and V3.1 (`name<sep>{...}`)."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.core.request import GrammarSpec
from octavo.parsers.constraint import structural_tag
from octavo.parsers.json_scan import Outcome, plain_call
from octavo.parsers.machine import NAME_LIMIT, TOOLS, Tool, ToolChoice, is_name
from octavo.parsers.sectioned import Sectioned
from octavo.parsers.splitter import Parse

FENCE = "```"


@TOOLS.register("deepseek_v31", "deepseek_v3", "deepseek_r1")
class DeepSeek(Sectioned):
    """Both forms, told apart by what stands behind the separator.

    Broken before the arguments: Text, tags included. Broken inside them: a call without end.
    """

    section = "<｜tool▁calls▁begin｜>"
    call = "<｜tool▁call▁begin｜>"
    separator = "<｜tool▁sep｜>"
    end_call = "<｜tool▁call▁end｜>"
    end_section = "<｜tool▁calls▁end｜>"

    def one(self, header: str) -> Parse[Outcome]:
        s = self.source
        yield from s.spaces()
        name, fenced = header, ""
        if header == "function" and (yield from s.peek()) not in ("{", "`"):
            line, fenced = yield from s.until("\n", FENCE, limit=NAME_LIMIT)
            name = line.strip()
            yield from s.spaces()
        if fenced == FENCE or (yield from s.literal(FENCE)):
            yield from s.literal("json")
            yield from s.spaces()
        if not is_name(name):
            return Outcome.NONE
        outcome = yield from plain_call(self, name, "", FENCE, self.end_call)
        if outcome is not Outcome.NONE:
            yield from self.blank()
            yield from s.literal(FENCE)
        return outcome

    def constraint(self, tools: Sequence[Tool], choice: ToolChoice) -> GrammarSpec | None:
        def frame(name: str) -> tuple[str, str]:
            return f"{self.call}{name}{self.separator}", self.end_call

        return structural_tag(tools, choice, self.call, frame)
