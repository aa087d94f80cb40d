"""Calls in a section of special tokens, a header before the arguments: DeepSeek and Kimi."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from octavo.parsers.events import Text
from octavo.parsers.json_scan import Outcome
from octavo.parsers.machine import NAME_LIMIT, Machine
from octavo.parsers.splitter import Parse


class Sectioned(Machine):
    """SECTION (CALL header SEPARATOR arguments END)* SECTION_END; a call may also stand alone."""

    section: ClassVar[str]
    call: ClassVar[str]
    separator: ClassVar[str]
    end_call: ClassVar[str]
    end_section: ClassVar[str]

    @abstractmethod
    def one(self, header: str) -> Parse[Outcome]:
        """Reads from behind the separator to the end of the arguments. The mark is set."""

    def parse(self) -> Parse[None]:
        s = self.source
        while tag := (yield from s.stream(Text, self.section, self.call)):
            s.mark()
            if tag == self.section:
                yield from s.spaces()
                if not (yield from s.literal(self.call)):
                    yield Text(tag + s.taken())
                    continue
            yield from self._calls(tag)

    def _calls(self, opening: str) -> Parse[None]:
        s = self.source
        while True:
            header, stop = yield from s.until(self.separator, limit=2 * NAME_LIMIT)
            outcome = (yield from self.one(header.strip())) if stop else Outcome.NONE
            if outcome is Outcome.NONE:
                yield Text(opening + s.taken())
                return
            yield from self.blank()
            yield from s.literal(self.end_call)
            yield from self.blank()
            if (yield from s.literal(self.call, self.end_section)) != self.call:
                return
            opening = self.call
            s.mark()
