"""`[TOOL_CALLS]`: the old list of objects, and the new `name[ARGS]{...}`, one tag a call.

Tokenizers before v11 wrote `[TOOL_CALLS] [{"name": ..., "arguments": {...}, "id": ...}]`; v11
writes `[TOOL_CALLS]name{...}`, v13 puts `[ARGS]` between, and `[CALL_ID]id` may stand before it.
"""

from __future__ import annotations

from collections.abc import Sequence

from octavo.core.request import GrammarSpec
from octavo.parsers.constraint import structural_tag
from octavo.parsers.events import Text
from octavo.parsers.json_scan import Outcome, calls, plain_call
from octavo.parsers.machine import NAME_LIMIT, TOOLS, Machine, Tool, ToolChoice, is_name
from octavo.parsers.splitter import Parse

TAG, ARGS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"


@TOOLS.register("mistral")
class Mistral(Machine):
    """Broken before the arguments: Text, tags included. Broken inside them: a call without end."""

    def parse(self) -> Parse[None]:
        s = self.source
        while (yield from s.stream(Text, TAG)):
            s.mark()
            yield from s.spaces()
            listed = (yield from s.peek()) in ("[", "{")
            outcome = yield from (calls(self) if listed else self._named())
            if outcome is Outcome.NONE:
                yield Text(TAG + s.taken())

    def _named(self) -> Parse[Outcome]:
        s = self.source
        name = yield from s.run(lambda c: c not in "[{" and not c.isspace(), NAME_LIMIT + 1)
        yield from s.spaces()
        id = ""
        if (yield from s.literal(CALL_ID)):
            id = yield from s.run(str.isalnum, NAME_LIMIT)
        marked = yield from s.literal(ARGS)
        yield from s.spaces()
        if not is_name(name) or not (marked or (yield from s.peek()) == "{"):
            return Outcome.NONE
        return (yield from plain_call(self, name, id, TAG))

    def constraint(self, tools: Sequence[Tool], choice: ToolChoice) -> GrammarSpec | None:
        return structural_tag(tools, choice, TAG, lambda name: (f"{TAG}{name}{ARGS}", ""))
