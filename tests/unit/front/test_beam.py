"""Beam search against searches that look at everything, over models that are a table."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from octavo.core.errors import Unsupported, UserError
from octavo.front.beam import BeamSearch, BeamSearchParams
from octavo.front.logprobs import Logprob

VOCAB, EOS, PROMPT = 5, 4, 3


class Table:
    """Log-probabilities of the next token, different after every beginning."""

    def __init__(self, seed):
        self.seed = seed
        self.rows = {}

    def row(self, tokens):
        if tokens not in self.rows:
            self.rows[tokens] = self.draw(tokens)
        return self.rows[tokens]

    def draw(self, tokens):
        draw = random.Random(f"{self.seed} {tokens}")
        weights = [math.exp(2 * draw.gauss(0, 1)) for _ in range(VOCAB)]
        return [math.log(weight / sum(weights)) for weight in weights]

    def alternatives(self, tokens, count):
        row = self.row(tokens)
        ranked = sorted(range(VOCAB), key=lambda id: -row[id])[:count]
        return {id: Logprob(row[id], rank) for rank, id in enumerate(ranked, 1)}

    def sum(self, tokens):
        return sum(self.row(tokens[:at])[token] for at, token in enumerate(tokens))


def run(table, params, eos=(EOS,)):
    """(tokens, score) of the best beams; and how many steps it took."""
    search, steps = BeamSearch(params, PROMPT, eos), 0
    while not search.done:
        assert len(search.open) <= params.beam_width
        search.feed([table.alternatives(beam.tokens, 2 * params.beam_width) for beam in search.open])
        steps += 1
    for beam in search.best():
        assert beam.logprob == pytest.approx(table.sum(beam.tokens))
        assert [next(iter(row)) for row in beam.rows] == list(beam.tokens)
        assert beam.finish == ("stop" if beam.tokens[-1] == EOS and eos else "length")
    return [(beam.tokens, search.score(beam)) for beam in search.best()], steps


def score(table, tokens, params):
    length = PROMPT + len(tokens) - (tokens[-1] == EOS and not params.ignore_eos)
    return table.sum(tokens) / length**params.length_penalty


def everything(table, params):
    """Every text there is, best first."""
    ids = range(VOCAB)
    texts = [
        tokens
        for length in range(1, params.max_tokens + 1)
        for tokens in itertools.product(ids, repeat=length)
        if EOS not in tokens[:-1] and (tokens[-1] == EOS or length == params.max_tokens)
    ]
    return sorted(((tokens, score(table, tokens, params)) for tokens in texts), key=lambda pair: -pair[1])


def plainly(table, params):
    """A beam search without any of the shortcuts; each beam grows by its likeliest tokens."""
    ended, live = [], [()]
    for _ in range(params.max_tokens):
        grown = [
            (*tokens, id)
            for tokens in live
            for id in sorted(range(VOCAB), key=lambda id: -table.row(tokens)[id])[: 2 * params.beam_width]
        ]
        ended += [tokens for tokens in grown if tokens[-1] == EOS and not params.ignore_eos]
        grown = [tokens for tokens in grown if tokens[-1] != EOS or params.ignore_eos]
        live = sorted(grown, key=lambda tokens: -score(table, tokens, params))[: params.beam_width]
    ranked = sorted(ended + live, key=lambda tokens: -score(table, tokens, params))
    return [(tokens, score(table, tokens, params)) for tokens in ranked[: params.beam_width]]


def same(got, wanted):
    assert [tokens for tokens, _ in got] == [tokens for tokens, _ in wanted]
    assert [value for _, value in got] == pytest.approx([value for _, value in wanted])


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.5, 1.0, 2.5])
@pytest.mark.parametrize("seed", range(4))
def test_a_beam_as_wide_as_the_world_finds_the_best_there_is(seed, penalty):
    params = BeamSearchParams(beam_width=VOCAB**4, max_tokens=4, length_penalty=penalty)
    table = Table(seed)
    got, steps = run(table, params)
    same(got, everything(table, params))
    assert steps == 4


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 1.0, 2.5])
@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_narrow_beams_are_those_of_a_plain_search(width, ignore, penalty):
    for seed in range(25):
        params = BeamSearchParams(beam_width=width, max_tokens=7, ignore_eos=ignore, length_penalty=penalty)
        table = Table(seed)
        got, _ = run(table, params, eos=() if ignore else (EOS,))
        same(got, plainly(table, params))


def test_a_search_ends_once_nothing_can_change():
    params = BeamSearchParams(beam_width=2, max_tokens=40, length_penalty=0.0)
    steps = [run(Table(seed), params)[1] for seed in range(10)]
    assert max(steps) < 40
    for seed in range(3):
        same(run(Table(seed), params)[0], plainly(Table(seed), params))


def test_a_single_beam_is_greedy_until_the_text_ends():
    table = Table(1)
    (best, *_), _ = run(table, BeamSearchParams(beam_width=1, max_tokens=6, ignore_eos=True), eos=())
    tokens = ()
    for _ in range(6):
        row = table.row(tokens)
        tokens += (row.index(max(row)),)
    assert best[0] == tokens


@pytest.mark.parametrize(
    "more, field",
    [
        ({"beam_width": 0}, "beam_width"),
        ({"beam_width": 5000}, "beam_width"),
        ({"beam_width": True}, "beam_width"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"length_penalty": float("nan")}, "length_penalty"),
        ({"ignore_eos": 1}, "ignore_eos"),
    ],
)
def test_bad_parameters(more, field):
    with pytest.raises(UserError) as caught:
        BeamSearchParams(**{"beam_width": 2, "max_tokens": 4, **more})
    assert caught.value.field == field


def test_forms_are_refused():
    with pytest.raises(Unsupported, match="generate"):
        BeamSearchParams(beam_width=2, max_tokens=4, structured_outputs=object())
