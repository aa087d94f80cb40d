"""`[name(key=value, ...), ...]`: Llama 3.2 and 4, ToolACE and other models taught Python calls.

The list is the whole answer, so it is looked for at its beginning only; Llama 4 may put it
between `<|python_start|>` and `<|python_end|>`, anywhere.
"""

from __future__ import annotations

from octavo.parsers import pythonic
from octavo.parsers.events import Text
from octavo.parsers.json_scan import say_call
from octavo.parsers.machine import TOOLS, Machine
from octavo.parsers.splitter import Parse

START, END = "<|python_start|>", "<|python_end|>"


@TOOLS.register("pythonic", "llama4_pythonic")
class Pythonic(Machine):
    """A call is said when it is whole. Broken or cut off: what is not a whole call is Text."""

    def parse(self) -> Parse[None]:
        yield from self.blank()
        yield from self._list("", bare=True)
        while tag := (yield from self.source.stream(Text, START)):
            yield from self._list(tag, bare=False)
            yield from self.blank()
            yield from self.source.literal(END)

    def _list(self, opening: str, bare: bool) -> Parse[None]:
        s = self.source
        s.mark()
        if not bare:
            yield from s.spaces()
        more = yield from s.literal("[")
        while more:
            yield from s.spaces()
            call = yield from pythonic.call(s)
            if call is None or (bare and not self.known(call[0])):
                break
            yield from say_call(self, *call)
            opening = ""
            s.mark()
            more = yield from self._separator()
            if more == "]":
                s.taken()
                return
        rest = opening + s.taken()
        if rest:
            yield Text(rest)

    def _separator(self) -> Parse[str]:
        """After a call: a comma if another may follow, the bracket (behind a comma or not) at the end."""
        s = self.source
        yield from s.spaces()
        comma = yield from s.literal(",")
        yield from s.spaces()
        return (yield from s.literal("]")) or comma
