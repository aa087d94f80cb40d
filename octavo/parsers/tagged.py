"""Calls as JSON behind a tag: what Hermes, Granite and Phi-4 have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from octavo.core.request import GrammarSpec
from octavo.parsers.constraint import structural_tag
from octavo.parsers.events import Text
from octavo.parsers.json_scan import Outcome, calls
from octavo.parsers.machine import Machine, Tool, ToolChoice
from octavo.parsers.splitter import Parse


class TaggedJson(Machine):
    """`TAG {...} TAG`, or a list, or several objects in a row; the closing tag may be missing."""

    opens: ClassVar[tuple[str, ...]]
    closes: ClassVar[tuple[str, ...]]
    before: ClassVar[str]  # as the model is taught to write it: what stands before `{"name"`,
    after: ClassVar[str]  # and what after the object

    def parse(self) -> Parse[None]:
        while tag := (yield from self.source.stream(Text, *self.opens)):
            yield from self._body(tag)

    def _body(self, tag: str) -> Parse[None]:
        s = self.source
        s.mark()
        yield from s.spaces()
        outcome = yield from calls(self)
        if outcome is Outcome.NONE:
            yield Text(tag + s.taken())
            return
        yield from self.blank()
        while outcome is Outcome.DONE and (yield from s.peek()) == "{":
            s.mark()
            outcome = yield from calls(self)
            if outcome is Outcome.NONE:
                yield Text(s.taken())
            yield from self.blank()
        yield from s.literal(*self.closes)

    def constraint(self, tools: Sequence[Tool], choice: ToolChoice) -> GrammarSpec | None:
        def frame(name: str) -> tuple[str, str]:
            return f'{self.before}{{"name": "{name}", "arguments": ', "}" + self.after

        return structural_tag(tools, choice, self.before, frame, separator="\n")
