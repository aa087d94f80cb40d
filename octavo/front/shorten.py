"""A conversation that is too long for the context, without its oldest turns.

Knows nothing of tokenizers or templates: it is given what renders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from octavo.core.errors import UserError

Message = Mapping[str, Any]
Rendered = tuple[str, tuple[int, ...]]
_HEAD = ("system", "developer")


def shortened(
    messages: Sequence[Message], render: Callable[[Sequence[Message]], Rendered], room: int
) -> Rendered:
    """What `render` makes of as many of the last messages as have at most `room` tokens. A cut stands
    before a user's message, so that calls and their results stay together; what the system says
    stays. Whatever does not fit without all that may go is rendered as it is, for its reader to refuse."""
    kept = [one for one in messages if isinstance(one, Mapping) and one.get("role") in _HEAD]
    if len(kept) == len(messages):
        return render(messages)
    rest = [one for one in messages if not (isinstance(one, Mapping) and one.get("role") in _HEAD)]
    starts = [0, *(at for at, one in enumerate(rest) if at and _asks(one))]
    best = _fits(messages, render, room)
    if best is not None:
        return best
    low, high = 1, len(starts) - 1  # the first cut that fits, by halving
    while low <= high:
        middle = (low + high) // 2
        rendered = _fits(kept + rest[starts[middle] :], render, room)
        if rendered is None:
            low = middle + 1
        else:
            best, high = rendered, middle - 1
    return best if best is not None else render(kept + rest[starts[-1] :])


def _asks(message: Message) -> bool:
    return isinstance(message, Mapping) and message.get("role") == "user"


def _fits(
    messages: Sequence[Message], render: Callable[[Sequence[Message]], Rendered], room: int
) -> Rendered | None:
    try:
        rendered = render(messages)
    except UserError as error:
        if error.field != "prompt":  # only its length is ours to mend
            raise
        return None
    return rendered if len(rendered[1]) <= room else None
