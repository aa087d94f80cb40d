"""`{"name": ..., "parameters": {...}}`, bare or behind `<|python_tag|>`: Llama 3.1, 3.2, 3.3 and 4.

A bare call is the whole answer, so it is looked for at its beginning only; several are separated
by `;` or `,`. Behind the tag a built-in tool is written as Python: `brave_search.call(query="...")`.
"""

from __future__ import annotations

from collections.abc import Sequence

from octavo.core.request import GrammarSpec
from octavo.parsers import pythonic
from octavo.parsers.constraint import structural_tag
from octavo.parsers.events import Text
from octavo.parsers.json_scan import Outcome, calls, say_call
from octavo.parsers.machine import TOOLS, Machine, Tool, ToolChoice
from octavo.parsers.splitter import Parse

TAGS = ("<|python_tag|>", "<|python_start|>")
END = "<|python_end|>"


@TOOLS.register("llama3_json", "llama4_json", "llama3")
class Llama3(Machine):
    """Broken before the arguments: Text. Broken inside them: a call without end. Other code: Text."""

    def parse(self) -> Parse[None]:
        yield from self.blank()
        yield from self._json("", bare=True)
        while tag := (yield from self.source.stream(Text, *TAGS)):
            yield from self._json(tag, bare=False)
            yield from self.blank()
            yield from self.source.literal(END)

    def _json(self, opening: str, bare: bool) -> Parse[None]:
        s = self.source
        s.mark()
        if not bare:
            yield from s.spaces()
        while True:
            if (yield from s.peek()) in ("{", "["):
                outcome = yield from calls(self, bare=bare)
            else:
                outcome = Outcome.NONE if bare else (yield from self._builtin())
            if outcome is not Outcome.NONE:
                opening = ""
            if outcome is not Outcome.DONE:
                break
            s.mark()
            yield from s.spaces()
            yield from s.literal(";", ",")
            yield from s.spaces()
        rest = opening + s.taken()
        if rest:
            yield Text(rest)

    def _builtin(self) -> Parse[Outcome]:
        call = yield from pythonic.call(self.source)
        if call is None or not call[0].endswith(".call"):
            return Outcome.NONE
        yield from say_call(self, call[0].removesuffix(".call"), call[1])
        return Outcome.DONE

    def constraint(self, tools: Sequence[Tool], choice: ToolChoice) -> GrammarSpec | None:
        def frame(name: str) -> tuple[str, str]:
            return f'{{"name": "{name}", "parameters": ', "}"

        return structural_tag(tools, choice, '{"name": ', frame, separator="; ")
