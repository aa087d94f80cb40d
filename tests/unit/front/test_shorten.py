"""Conversations without their oldest turns: the shortest cut that fits, never inside a turn."""

from __future__ import annotations

import pytest

from octavo.core.errors import UserError
from octavo.front.shorten import shortened


def said(role, size, **more):
    return {"role": role, "content": "x" * size, **more}


def render(messages):
    """A token for each character, and one for each message."""
    if any(message["role"] == "odd" for message in messages):
        raise UserError("odd", field="messages")
    size = sum(len(message["content"]) + 1 for message in messages)
    if size > 1000:
        raise UserError("far too long", field="prompt")
    return "".join(message["role"][0] for message in messages), (7,) * size


TALK = [
    said("system", 4),
    said("user", 9), said("assistant", 9), said("tool", 9), said("assistant", 9),
    said("user", 9), said("assistant", 9),
    said("user", 9),
]  # fmt: skip


@pytest.mark.parametrize(
    "room, roles",
    [(1000, "suatauau"[:8]), (75, "suatauau"), (74, "suau"), (35, "suau"), (34, "su"), (15, "su"), (3, "su")],
)
def test_the_longest_end_that_fits(room, roles):
    text, ids = shortened(TALK, render, room)
    assert text == roles and (len(ids) <= room or roles == "su")


@pytest.mark.parametrize("turns", range(1, 30))
def test_every_length_is_found_by_halving(turns):
    talk = [said("user", 9) for _ in range(turns)]
    for room in range(0, 10 * turns + 1, 5):
        text, _ = shortened(talk, render, room)
        assert len(text) == max(1, min(turns, room // 10))


def test_a_prompt_that_cannot_even_be_rendered_is_shortened_too():
    talk = [said("user", 990), said("user", 990), said("user", 9)]
    assert shortened(talk, render, 100)[0] == "u"


def test_other_errors_and_odd_conversations_are_for_their_reader():
    with pytest.raises(UserError, match="odd"):
        shortened([said("user", 3), said("odd", 3)], render, 100)
    assert shortened([said("system", 50)], render, 3)[0] == "s"
