"""The base of every parser, and the two registries. Knows no format.

A format subclasses Machine and writes `parse`, a generator that reads like the grammar it
accepts. Rules for all of them:

- No text is an error. What turns out not to be a call is Text, tags included.
- Once CallStart is out it stays out. A call that is cut off or broken inside its arguments
  keeps what was certain and gets no CallEnd.
- A tag is proof of intent: a call of an unknown tool is reported, so that the client can answer
  with an error the model understands. Where a format has no tag (bare JSON, bare pythonic)
  the name must be one of the tools given, else the answer is text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from octavo.core.registry import Registry
from octavo.core.request import GrammarSpec
from octavo.parsers.events import CallArguments, CallEnd, CallStart, Event, Text, Thought
from octavo.parsers.layout import Layout
from octavo.parsers.splitter import Parse, Splitter

NAME_LIMIT = 256  # characters of a tool's name; longer is not a name
PIECE = 256  # characters searched at once: searching a whole answer for each of its tags is quadratic


@dataclass(frozen=True, slots=True)
class Tool:
    """What a parser may know of a tool: its name and the JSON schema of its parameters."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


class ToolChoice(NamedTuple):
    """`mode`: none, auto, required, or named (then `name` is the tool that must be called)."""

    mode: str = "auto"
    name: str = ""
    parallel: bool = True  # may there be more than one call?


class Marks(NamedTuple):
    """What encloses reasoning. `inside`: the prompt has opened it already."""

    open: str
    close: str
    inside: bool


class OutputParser(Protocol):
    """One answer's parser. After `close` it is spent."""

    def feed(self, text: str) -> Iterator[Event]:
        """What the next piece of text made certain. The work is done even if nobody iterates."""
        ...

    def close(self) -> Iterator[Event]:
        """What is left when the text has ended."""
        ...

    def constraint(self, tools: Sequence[Tool], choice: ToolChoice) -> GrammarSpec | None:
        """A grammar under which calls fit the tools' schemas; None where the format offers none."""
        ...


ToolParser = Callable[[Sequence[Tool]], "Machine"]
ReasoningParser = Callable[[str | None], "Machine"]

TOOLS: Registry[ToolParser] = Registry("tool_parser", "octavo.parsers.tools")
REASONING: Registry[ReasoningParser] = Registry("reasoning_parser", "octavo.parsers.reasoning")


def is_name(text: str) -> bool:
    """Could this be a tool's name? MCP names have dots and slashes; none has blanks or tags."""
    return 0 < len(text) <= NAME_LIMIT and not any(c.isspace() or c in "<>{}\"'" for c in text)


class Machine(ABC):
    """Runs `parse` over the text as it comes, and tidies what it says."""

    does_both = False  # reasoning and tools in one machine (harmony)

    def __init__(self, tools: Sequence[Tool] = ()) -> None:
        self.tools = {tool.name: tool for tool in tools}
        self.source = Splitter()
        self.calls = 0
        self._layout = Layout()
        self._running = self.parse()

    def feed(self, text: str) -> Iterator[Event]:
        events: list[Event] = []
        for at in range(0, len(text), PIECE):
            self.source.add(text[at : at + PIECE])
            events.extend(self._drain())
        return iter(events)

    def close(self) -> Iterator[Event]:
        self.source.ended = True
        events = self._drain()
        events.extend(self._layout.close())
        return iter(events)

    def constraint(self, tools: Sequence[Tool], choice: ToolChoice) -> GrammarSpec | None:
        return None

    @property
    def marks(self) -> Marks | None:
        """For a reasoning format: what encloses it; None where that is no pair of tags."""
        return None

    @abstractmethod
    def parse(self) -> Parse[None]:
        """Read `self.source` to its end, yielding events, and None where text is missing."""

    def known(self, name: str) -> bool:
        """Is this one of the tools? True when none were given: then the shape must suffice."""
        return not self.tools or name in self.tools

    # Calls, as the formats say them.

    def start(self, name: str, id: str = "") -> CallStart:
        self.calls += 1
        return CallStart(self.calls - 1, name, id)

    def arguments(self, delta: str) -> CallArguments:
        return CallArguments(self.calls - 1, delta)

    def end(self) -> CallEnd:
        return CallEnd(self.calls - 1)

    def blank(self) -> Parse[None]:
        """Whitespace beside a tag: said, for the layout to judge."""
        spaces = yield from self.source.spaces()
        if spaces:
            yield Text(spaces)

    def seam(self) -> Parse[None]:
        """Tell the layout that a tag was read that says nothing by itself."""
        yield Text("")
        yield Thought("")

    def _drain(self) -> list[Event]:
        events: list[Event] = []
        for event in self._running:
            if event is None:
                break
            events.extend(self._layout.feed(event))
        return events
