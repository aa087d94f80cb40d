"""FlatLogprobs reads like the list of mappings it stands for."""

from __future__ import annotations

import random

import pytest

from octavo.front.logprobs import FlatLogprobs, Logprob


def rows(count: int) -> list[dict[int, Logprob]]:
    rng = random.Random(count)
    return [
        {
            id: Logprob(-rng.random(), rank, f"t{id}")
            for rank, id in enumerate(rng.sample(range(99), 1 + at % 4), 1)
        }
        for at in range(count)
    ]


def test_it_holds_what_was_appended_in_six_lists():
    flat = FlatLogprobs()
    flat.append({7: Logprob(-0.5, 1, "a"), 9: Logprob(-1.5, 2, None)})
    flat.append(None)
    flat.append_fast([4], [-2.0], [3], ["b"])
    assert (flat.start_indices, flat.end_indices) == ([0, 2, 2], [2, 2, 3])
    assert (flat.token_ids, flat.logprobs) == ([7, 9, 4], [-0.5, -1.5, -2.0])
    assert (flat.ranks, flat.decoded_tokens) == ([1, 2, 3], ["a", None, "b"])
    assert list(flat) == [flat[0], {}, {4: Logprob(-2.0, 3, "b")}]


@pytest.mark.parametrize(
    "part",
    [
        slice(None),
        slice(2),
        slice(2, 7),
        slice(-3, None),
        slice(5, 5),
        slice(1, 9, 3),
        slice(None, None, -2),
        slice(99),
    ],
)
def test_places_and_slices_are_those_of_a_list(part):
    plain = rows(10)
    flat = FlatLogprobs.of(plain)
    assert len(flat) == 10 and list(flat) == plain
    assert [flat[at] for at in range(-10, 10)] == [plain[at] for at in range(-10, 10)]
    cut = flat[part]
    assert isinstance(cut, FlatLogprobs) and list(cut) == plain[part]
    assert cut == FlatLogprobs.of(plain[part])


def test_it_grows_at_its_end_only():
    plain = rows(5)
    flat = FlatLogprobs.of(plain[:3])
    flat += plain[3:]
    flat.extend(flat)
    assert list(flat) == plain * 2
    with pytest.raises(IndexError):
        flat[10]
    for change in (
        lambda: flat.insert(0, plain[0]),
        lambda: flat.__setitem__(0, plain[0]),
        lambda: flat.__delitem__(0),
        flat.pop,
        flat.clear,
    ):
        with pytest.raises(TypeError, match="FlatLogprobs"):
            change()
    with pytest.raises(ValueError, match="zip"):
        flat.append_fast([1, 2], [-1.0], [1], ["a"])
    assert list(flat) == plain * 2
