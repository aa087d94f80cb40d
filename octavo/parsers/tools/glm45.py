"""GLM-4.5 to 4.7: `<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>`.

4.5 breaks lines between the elements, 4.7 does not.
"""

from __future__ import annotations

from collections.abc import Sequence

from octavo.core.request import GrammarSpec
from octavo.parsers.events import Text
from octavo.parsers.machine import NAME_LIMIT, TOOLS, Machine, Tool, ToolChoice, is_name
from octavo.parsers.markup import Markup, arguments
from octavo.parsers.markup_form import markup_tag
from octavo.parsers.splitter import Parse

TAG = "<tool_call>"
FORM = Markup(
    name_close="",
    key_open="<arg_key>",
    key_close="</arg_key>",
    value_open="<arg_value>",
    value_ends=("</arg_value>",),
    close="</tool_call>",
    untyped_is_string=False,
)


@TOOLS.register("glm45", "glm47")
class GLM45(Machine):
    """Without a name: Text. Cut off: a call without end. Strange inside: ends there, rest Text."""

    def parse(self) -> Parse[None]:
        s = self.source
        while (yield from s.stream(Text, TAG)):
            s.mark()
            yield from s.spaces()
            header, stop = yield from s.until("\n", FORM.key_open, FORM.close, limit=NAME_LIMIT)
            name = header.strip()
            if not stop or not is_name(name):
                yield Text(TAG + s.taken())
                continue
            s.taken()
            yield self.start(name)
            yield from arguments(self, FORM, name, stop.strip())
            yield from self.blank()
            yield from s.literal(FORM.close)

    def constraint(self, tools: Sequence[Tool], choice: ToolChoice) -> GrammarSpec | None:
        return markup_tag(FORM, tools, choice, TAG)
