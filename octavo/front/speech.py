"""What an answer says: words, thoughts and tool calls, out of the text of its chunks.

Stands between the chunks of the front and the dialects, which only write it down. Whole answers
are folded pieces of a stream here too. Knows no wire type and no format of calls.
"""

from __future__ import annotations

import itertools
import secrets
import string
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from octavo.config.serve import ServeConfig
from octavo.core.errors import UserError
from octavo.core.request import GrammarSpec
from octavo.front.answer import Chunk
from octavo.front.tools import ToolUse
from octavo.parsers import chain
from octavo.parsers.choose import choose, words
from octavo.parsers.events import CallArguments, CallEnd, CallStart, Event, Text, Thought
from octavo.parsers.machine import REASONING, TOOLS, OutputParser, Tool
from octavo.text.chat import ChatTemplate

AUTO, NONE = "auto", "none"
_TAUGHT = "hermes"  # what teach.py shows to models whose template knows no tools
_JSON = "llama3_json"  # bare JSON: for formats that no grammar can enforce
_SHORT_IDS = frozenset({"mistral"})  # its templates refuse other ids than nine letters and digits
_LETTERS = string.ascii_letters + string.digits


class Formats(NamedTuple):
    """How this model writes calls and thoughts: names of parsers, None for none. `may_choose`:
    whether it may decide by itself to call a tool. `special`: whether special tokens mark calls or
    thoughts, so that they must not be left out of the text."""

    tools: str | None = None
    reasoning: str | None = None
    may_choose: bool = True
    special: bool = False

    @classmethod
    def of(
        cls, config: ServeConfig, template: ChatTemplate | None, specials: Collection[str] = ()
    ) -> Formats:
        """From the settings; "auto" looks at the template. `specials` are the texts of the special
        tokens. NotFound for an unknown parser."""
        tools, reasoning = config.tool_call_parser, config.reasoning_parser
        found = choose("\n".join(template.sources.values())) if template is not None else None
        seen_tools = found.tools if found else None
        if template is not None and not template.knows("tools"):
            seen_tools = _TAUGHT
        if tools not in (AUTO, NONE):
            TOOLS.get(tools)
        if reasoning not in (AUTO, NONE):
            REASONING.get(reasoning)
        names = _named(tools, seen_tools), _named(reasoning, found.reasoning if found else None)
        special = any(_is_special(name, specials) for name in names if name is not None)
        return cls(*names, config.enable_auto_tool_choice, special)


def _is_special(name: str, specials: Collection[str]) -> bool:
    """Of a format nobody knows it must be assumed."""
    known = words(name)
    return not known or not known.isdisjoint(specials)


def _named(setting: str, seen: str | None) -> str | None:
    return seen if setting == AUTO else None if setting == NONE else setting


class Plan(NamedTuple):
    """How one request's answers are read, and what they must look like."""

    tools: str | None
    reasoning: str | None
    constraint: GrammarSpec | None = None

    @property
    def plain(self) -> bool:
        """Whether everything is text."""
        return self.tools is None and self.reasoning is None


def plan(formats: Formats, use: ToolUse) -> Plan:
    """UserError when the model's way of calling tools is not known."""
    mode, name = use.choice.mode, formats.tools
    if mode == "none":
        return Plan(None, formats.reasoning)
    if mode == "auto":
        if not formats.may_choose:
            raise UserError(
                "this server does not let the model choose whether to call a tool",
                hint="set tool_choice to none, required or a tool",
                field="tool_choice",
            )
        if name is None:
            raise UserError(
                "how this model calls tools is not known, so it cannot choose to",
                hint="start the server with --tool-call-parser, or set tool_choice to required or a tool",
                field="tool_choice",
            )
        return Plan(name, formats.reasoning, _strict(name, use))
    spec = _constraint(name, use) if name is not None else None
    if spec is None:
        name = _JSON
        spec = _constraint(name, use)
    return Plan(name, formats.reasoning, spec)


def _constraint(name: str, use: ToolUse) -> GrammarSpec | None:
    return chain.build(tools=name, definitions=use.tools).constraint(use.tools, use.choice)


def _strict(name: str, use: ToolUse) -> GrammarSpec | None:
    """The model may call or not; what it calls in strict tools' names fits their schemas."""
    if not use.strict:
        return None
    tools = tuple(one if one.name in use.strict else Tool(one.name) for one in use.tools)
    return chain.build(tools=name, definitions=tools).constraint(tools, use.choice)


class CallPiece(NamedTuple):
    """News of call number `at`. `id` and `name` come with its first piece only."""

    at: int
    id: str | None
    name: str | None
    arguments: str


class Said(NamedTuple):
    """What one chunk says. `thought` is empty when nobody wants it."""

    text: str = ""
    thought: str = ""
    calls: tuple[CallPiece, ...] = ()
    finish: str | None = None

    @property
    def empty(self) -> bool:
        return not (self.text or self.thought or self.calls or self.finish)


class Voice:
    """Reads one answer, chunk by chunk."""

    def __init__(self, parser: OutputParser | None, use: ToolUse, ids: Callable[[], str]) -> None:
        self._parser = parser
        self._use = use
        self._ids = ids
        self._calls = 0
        self._thinking = False

    def feed(self, chunk: Chunk) -> Said:
        if self._parser is None:
            return Said(text=chunk.text, finish=chunk.finish_reason)
        return self._said(self._events(self._parser, chunk), chunk.finish_reason)

    def turns(self, chunk: Chunk) -> list[Said]:
        """As `feed`, with the order kept: each one holds one kind of thing, the last one the finish."""
        if self._parser is None:
            return [Said(text=chunk.text, finish=chunk.finish_reason)]
        events = self._events(self._parser, chunk)
        groups = [list(group) for _, group in itertools.groupby(events, _kind)] or [[]]
        last = len(groups) - 1
        return [
            self._said(group, chunk.finish_reason if at == last else None) for at, group in enumerate(groups)
        ]

    def _events(self, parser: OutputParser, chunk: Chunk) -> list[Event]:
        events = list(parser.feed(chunk.text))
        if chunk.finish_reason is not None:
            events += parser.close()
        return events

    def thought_tokens(self, chunk: Chunk) -> int:
        """How many of a chunk that was just fed went into reasoning; its tags are counted by chance."""
        return len(chunk.token_ids) if self._thinking else 0

    def _said(self, events: Iterable[Event], finish: str | None) -> Said:
        text: list[str] = []
        thought: list[str] = []
        calls: dict[int, CallPiece] = {}
        for event in events:
            self._thinking = isinstance(event, Thought)
            if isinstance(event, Text):
                text.append(event.text)
            elif isinstance(event, Thought):
                thought.append(event.text)
            elif not isinstance(event, CallEnd) and self._wanted(event.index):
                calls[event.index] = self._piece(event, calls.get(event.index))
        if finish == "stop" and self._calls and self._use.choice.mode in ("auto", "required"):
            finish = "tool_calls"
        return Said("".join(text), "".join(thought), tuple(calls.values()), finish)

    def _wanted(self, index: int) -> bool:
        return self._use.choice.mode != "none" and (index == 0 or self._use.choice.parallel)

    def _piece(self, event: CallStart | CallArguments, before: CallPiece | None) -> CallPiece:
        if isinstance(event, CallStart):
            self._calls += 1
            return CallPiece(event.index, event.id or self._ids(), event.name, "")
        if before is None:
            return CallPiece(event.index, None, None, event.delta)
        return before._replace(arguments=before.arguments + event.delta)


def _kind(event: Event) -> object:
    """What stands in one part of an answer: text, a thought, or one call."""
    return type(event) if isinstance(event, Text | Thought) else event.index


def voice(plan: Plan, use: ToolUse, prompt: str | None) -> Voice:
    """The reader of one answer to `prompt`, which shows whether reasoning is open already."""
    if plan.plain:
        return Voice(None, use, _long_id)
    parser = chain.build(tools=plan.tools, reasoning=plan.reasoning, definitions=use.tools, prompt=prompt)
    return Voice(parser, use, _short_id if plan.tools in _SHORT_IDS else _long_id)


def _long_id() -> str:
    return f"chatcmpl-tool-{secrets.token_hex(16)}"


def _short_id() -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(9))
