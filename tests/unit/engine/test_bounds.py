"""The core refuses ids outside the vocabulary in every list that carries them."""

from __future__ import annotations

import pytest

from octavo.core.errors import UserError
from octavo.core.request import EngineRequest, Sampling
from octavo.engine.bounds import check_ids

VOCAB = 100


def request(tokens=(1, 2), output=(), **sampling) -> EngineRequest:
    return EngineRequest(id="r", tokens=tokens, output=output, seed=0, sampling=Sampling(**sampling))


@pytest.mark.parametrize("bad", [-1, VOCAB, 2**31])
@pytest.mark.parametrize(
    "field, make",
    [
        ("prompt", lambda bad: request(tokens=(1, bad))),
        ("output", lambda bad: request(output=(bad,))),
        ("eos", lambda bad: request(eos=(bad,))),
        ("stop_token_ids", lambda bad: request(stop_token_ids=(3, bad))),
        ("allowed_token_ids", lambda bad: request(allowed_token_ids=(bad,))),
        ("logit_bias", lambda bad: request(logit_bias=((1, 0.5), (bad, 1.0)))),
        ("bad_words", lambda bad: request(bad_words=((1,), (2, bad)))),
    ],
)
def test_an_id_outside_the_vocabulary_is_refused(field, make, bad):
    with pytest.raises(UserError) as caught:
        check_ids(make(bad), VOCAB)
    assert caught.value.field == field
    assert f"[0, {VOCAB})" in str(caught.value)


def test_the_edges_are_inside():
    check_ids(request(tokens=(0, VOCAB - 1), stop_token_ids=(VOCAB - 1,), allowed_token_ids=()), VOCAB)


def test_an_empty_prompt_is_refused():
    with pytest.raises(UserError, match="empty"):
        check_ids(request(tokens=()), VOCAB)
