"""Ways of feeding a parser, and short words for the events that come out."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Iterator, Sequence

from octavo.parsers.chain import build
from octavo.parsers.events import CallArguments, CallEnd, CallStart, Event, Text, Thought, fold, merge
from octavo.parsers.machine import OutputParser, Tool

TOOLS = (
    Tool(
        "get_weather",
        {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    ),
    Tool("f", {"properties": {"s": {"type": "string"}, "n": {"type": "integer"}, "x": {"type": "object"}}}),
    Tool("g"),
)


def maker(
    tools: str | None = None, reasoning: str | None = None, prompt: str | None = None, definitions=TOOLS
):
    """A function that makes fresh parsers."""
    return lambda: build(tools=tools, reasoning=reasoning, definitions=definitions, prompt=prompt)


def run(parser: OutputParser, parts: Iterable[str]) -> list[Event]:
    events: list[Event] = []
    for part in parts:
        events.extend(parser.feed(part))
    events.extend(parser.close())
    return merge(events)


def two_cuts(text: str) -> Iterator[list[str]]:
    for i in range(len(text) + 1):
        yield [text[:i], text[i:]]


def three_cuts(text: str, most: int | None = None, seed: int = 0) -> Iterator[list[str]]:
    """Every cut into three parts, or `most` of them, the same ones each time."""
    places = range(len(text) + 1)
    pairs: Iterable[tuple[int, ...]] = itertools.combinations_with_replacement(places, 2)
    if most is not None and len(text) ** 2 / 2 > most:
        rng = random.Random(f"{seed} {text}")
        pairs = [tuple(sorted((rng.choice(places), rng.choice(places)))) for _ in range(most)]
    for i, j in pairs:
        yield [text[:i], text[i:j], text[j:]]


def T(text: str) -> Text:
    return Text(text)


def H(thought: str) -> Thought:
    return Thought(thought)


def shown(events: Sequence[Event]) -> list[object]:
    """Events, each call as (name, arguments read as JSON), (name, text, "open") if it has no end, else "raw"."""
    ended = {e.index for e in events if isinstance(e, CallEnd)}
    raw: dict[int, str] = {}
    for event in events:
        if isinstance(event, CallArguments):
            raw[event.index] = raw.get(event.index, "") + event.delta
    out: list[object] = []
    for event in events:
        if isinstance(event, CallStart):
            text = raw.get(event.index, "")
            out.append((event.name, *_read(text)) if event.index in ended else (event.name, text, "open"))
        elif isinstance(event, Text | Thought):
            out.append(event)
    return out


def _read(text: str) -> tuple[object, ...]:
    try:
        return (json.loads(text),)
    except ValueError:
        return (text, "raw")


def content(events: Sequence[Event]) -> str:
    """Everything a client gets to see."""
    folded = fold(events)
    return folded.text + folded.thought + "".join(call.name + call.arguments for call in folded.calls)
