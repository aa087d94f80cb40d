"""One answer's parser: reasoning first, then tools in what is left. Knows no format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from octavo.core.request import GrammarSpec
from octavo.parsers.events import Event, Text
from octavo.parsers.machine import REASONING, TOOLS, Machine, Marks, OutputParser, Tool, ToolChoice
from octavo.parsers.splitter import Parse


class Plain(Machine):
    """Everything is text."""

    def parse(self) -> Parse[None]:
        yield from self.source.stream(Text)


class Chain:
    """An OutputParser of two: the text that the first leaves is what the second reads."""

    def __init__(self, reasoning: Machine, tools: Machine) -> None:
        self._reasoning = reasoning
        self._tools = tools

    def feed(self, text: str) -> Iterator[Event]:
        return iter(self._second(self._reasoning.feed(text)))

    def close(self) -> Iterator[Event]:
        events = self._second(self._reasoning.close())
        events.extend(self._tools.close())
        return iter(events)

    def constraint(self, tools: Sequence[Tool], choice: ToolChoice) -> GrammarSpec | None:
        return self._tools.constraint(tools, choice)

    def _second(self, events: Iterable[Event]) -> list[Event]:
        out: list[Event] = []
        for event in events:
            if isinstance(event, Text):
                out.extend(self._tools.feed(event.text))
            else:
                out.append(event)
        return out


def build(
    *,
    tools: str | None = None,
    reasoning: str | None = None,
    definitions: Sequence[Tool] = (),
    prompt: str | None = None,
) -> OutputParser:
    """The parser of one answer.

    tools, reasoning: names in the registries, None for none. definitions: the request's tools.
    prompt: the rendered prompt, or its last line at least; it shows whether the template has
    already opened the reasoning. Raises NotFound for a name that does not exist.
    """
    first = REASONING.get(reasoning)(prompt) if reasoning else None
    second = TOOLS.get(tools)(definitions) if tools else None
    for both in (second, first):
        if both is not None and both.does_both:
            return both
    if first is not None and second is not None:
        return Chain(first, second)
    return first or second or Plain()


def marks(reasoning: str, prompt: str) -> Marks | None:
    """What encloses the reasoning of answers to this prompt. NotFound for a name that does not exist."""
    return REASONING.get(reasoning)(prompt).marks
