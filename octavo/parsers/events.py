"""What a parser says, and how a stream of it is folded. Knows no format.

One answer is a stream of events; the whole answer is that stream folded. So streaming and
non-streaming cannot differ, and two ways of cutting the same text are equal when `merge` is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the visible answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of the reasoning before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A tool call begins. `index` counts calls of this answer from 0.

    `id` is the model's own name for the call, where its format has one (Kimi K2 wants it back
    in the history); empty otherwise, and the caller invents one.
    """

    index: int
    name: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of the call's arguments; the pieces joined are JSON text."""

    index: int
    delta: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The arguments of this call are complete. A call that was cut off or broken never gets one."""

    index: int


Event = Text | Thought | CallStart | CallArguments | CallEnd


def merge(events: Iterable[Event]) -> list[Event]:
    """The canonical form: neighbours of one kind joined, empty pieces dropped, order kept."""
    runs: list[tuple[Event, list[str]]] = []
    for event in events:
        piece = _piece(event)
        if piece == "":
            continue
        if piece is not None and runs and _same(runs[-1][0], event):
            runs[-1][1].append(piece)
        else:
            runs.append((event, [] if piece is None else [piece]))
    return [_joined(event, pieces) for event, pieces in runs]


def _piece(event: Event) -> str | None:
    """The text of an event that comes in pieces; None for one that does not."""
    if isinstance(event, Text | Thought):
        return event.text
    return event.delta if isinstance(event, CallArguments) else None


def _same(a: Event, b: Event) -> bool:
    if isinstance(a, CallArguments) and isinstance(b, CallArguments):
        return a.index == b.index
    return type(a) is type(b) and isinstance(a, Text | Thought)


def _joined(event: Event, pieces: list[str]) -> Event:
    if isinstance(event, Text):
        return Text("".join(pieces))
    if isinstance(event, Thought):
        return Thought("".join(pieces))
    if isinstance(event, CallArguments):
        return CallArguments(event.index, "".join(pieces))
    return event


@dataclass(frozen=True, slots=True)
class Call:
    """One whole tool call. `complete` is False when the model stopped or stumbled inside it."""

    name: str
    arguments: str
    id: str = ""
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Folded:
    """A whole answer."""

    text: str
    thought: str
    calls: tuple[Call, ...]


def fold(events: Iterable[Event]) -> Folded:
    """The whole answer of a stream, for the caller who did not ask for one."""
    text: list[str] = []
    thought: list[str] = []
    starts: dict[int, CallStart] = {}
    arguments: dict[int, list[str]] = {}
    ended: set[int] = set()
    for event in events:
        if isinstance(event, Text):
            text.append(event.text)
        elif isinstance(event, Thought):
            thought.append(event.text)
        elif isinstance(event, CallStart):
            starts[event.index] = event
        elif isinstance(event, CallArguments):
            arguments.setdefault(event.index, []).append(event.delta)
        else:
            ended.add(event.index)
    calls = tuple(
        Call(start.name, "".join(arguments.get(index, ())), start.id, index in ended)
        for index, start in starts.items()
    )
    return Folded("".join(text), "".join(thought), calls)
