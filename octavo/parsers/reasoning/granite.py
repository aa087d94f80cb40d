"""Granite: "Here is my thought process:" up to "Here is my response:" (3.2), or tags (3.3, 4.2).

3.3 writes `<think>...</think><response>...</response>`. Quantized models say "Here's".
"""

from __future__ import annotations

from octavo.parsers.events import Text, Thought
from octavo.parsers.machine import REASONING
from octavo.parsers.reasoning.think import Think
from octavo.parsers.splitter import Parse

THOUGHT = ("Here is my thought process:", "Here's my thought process:")
RESPONSE = ("Here is my response:", "Here's my response:")


@REASONING.register("granite")
class Granite(Think):
    """The phrases count at the beginning only. Never closed: all of it is thought."""

    def parse(self) -> Parse[None]:
        s = self.source
        yield from self.blank()
        if not self.inside and (yield from s.literal(*THOUGHT)):
            yield from self.seam()
            if (yield from s.stream(Thought, *RESPONSE)):
                yield from self.seam()
            yield from s.stream(Text)
        else:
            yield from super().parse()

    def answer(self) -> Parse[None]:
        yield from self.blank()
        if (yield from self.source.literal("<response>")):
            yield from self.seam()
            yield from self.source.stream(Text, "</response>")
        yield from self.source.stream(Text)
