"""The events of a streamed response, in the order they may come; `sequence_number` counts them."""

from __future__ import annotations

from octavo.server.narrate import Event
from octavo.server.openai.types import TokenLogprob
from octavo.server.responses.types import Item, Part, Response


class Numbered(Event, kw_only=True):
    sequence_number: int


class OfResponse(Numbered, kw_only=True):
    """Tells of the response as a whole."""

    response: Response


class Created(OfResponse, tag="response.created"):
    pass


class Queued(OfResponse, tag="response.queued"):
    pass


class InProgress(OfResponse, tag="response.in_progress"):
    pass


class Completed(OfResponse, tag="response.completed"):
    pass


class EndedEarly(OfResponse, tag="response.incomplete"):
    pass


class Failed(OfResponse, tag="response.failed"):
    pass


class ItemAdded(Numbered, tag="response.output_item.added", kw_only=True):
    output_index: int
    item: Item


class ItemDone(Numbered, tag="response.output_item.done", kw_only=True):
    output_index: int
    item: Item


class OfPart(Numbered, kw_only=True):
    item_id: str
    output_index: int
    content_index: int = 0


class PartAdded(OfPart, tag="response.content_part.added", kw_only=True):
    part: Part


class PartDone(OfPart, tag="response.content_part.done", kw_only=True):
    part: Part


class TextDelta(OfPart, tag="response.output_text.delta", kw_only=True):
    delta: str
    logprobs: list[TokenLogprob]


class TextDone(OfPart, tag="response.output_text.done", kw_only=True):
    text: str
    logprobs: list[TokenLogprob]


class ThoughtDelta(OfPart, tag="response.reasoning_text.delta", kw_only=True):
    delta: str


class ThoughtDone(OfPart, tag="response.reasoning_text.done", kw_only=True):
    text: str


class ArgumentsDelta(Numbered, tag="response.function_call_arguments.delta", kw_only=True):
    item_id: str
    output_index: int
    delta: str


class ArgumentsDone(Numbered, tag="response.function_call_arguments.done", kw_only=True):
    item_id: str
    output_index: int
    name: str
    arguments: str


EVENTS: tuple[type[Event], ...] = (
    Created, Queued, InProgress, ItemAdded, PartAdded, TextDelta, TextDone, ThoughtDelta, ThoughtDone,
    ArgumentsDelta, ArgumentsDone, PartDone, ItemDone, Completed, EndedEarly, Failed,
)  # fmt: skip
