"""Qwen3-Coder: `<tool_call><function=name><parameter=key>value</parameter></function></tool_call>`.

One line break after a parameter's opening tag and one before its closing tag are not part of the
value. The model sometimes forgets the outer tag, so a function may stand alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from octavo.core.request import GrammarSpec
from octavo.parsers.events import Text
from octavo.parsers.machine import NAME_LIMIT, TOOLS, Machine, Tool, ToolChoice, is_name
from octavo.parsers.markup import Markup, arguments
from octavo.parsers.markup_form import markup_tag
from octavo.parsers.splitter import Parse

OUTER, OUTER_END, FUNCTION = "<tool_call>", "</tool_call>", "<function="
FORM = Markup(
    name_close=">",
    key_open="<parameter=",
    key_close=">",
    value_open="",
    value_ends=("\n</parameter>", "</parameter>"),
    close="</function>",
    untyped_is_string=True,
)


@TOOLS.register("qwen3_coder", "qwen3_xml")
class Qwen3Coder(Machine):
    """Without a function name: Text. Cut off: a call without end. Strange inside: ends there, rest Text."""

    def parse(self) -> Parse[None]:
        s = self.source
        while tag := (yield from s.stream(Text, OUTER, FUNCTION)):
            s.mark()
            if tag == OUTER:
                yield from s.spaces()
                if not (yield from s.literal(FUNCTION)):
                    yield Text(tag + s.taken())
                    continue
            name, stop = yield from s.until(">", limit=NAME_LIMIT)
            if not stop or not is_name(name.strip()):
                yield Text(tag + s.taken())
                continue
            s.taken()
            yield self.start(name.strip())
            yield from arguments(self, FORM, name.strip())
            yield from self.blank()
            yield from s.literal(OUTER_END)

    def constraint(self, tools: Sequence[Tool], choice: ToolChoice) -> GrammarSpec | None:
        return markup_tag(FORM, tools, choice, FUNCTION, (f"{OUTER}\n", f"\n{OUTER_END}"))
