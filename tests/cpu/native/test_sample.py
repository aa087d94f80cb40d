"""The native draw against ops/sample.py: the same tokens, whatever is asked and whoever is beside a row."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from octavo.core.request import Sampling
from octavo.ops import sample
from octavo.ops.cpu.lib import Engine, NativeError
from octavo.ops.cpu.sample import NativeSampler, Wishes
from octavo.sampling.sampler import Sampler
from tests.cpu.sampling.rows import admission, logits_of, rows_of

WISHES = [
    Sampling(temperature=t, top_k=k, top_p=p, min_p=m)
    for t, k, p, m in product(
        (0.0, 0.3, 1.0, 1.7), (0, 1, 40, 700, 10**6), (0.0, 1e-9, 0.5, 0.95, 0.9999, 1.0), (0.0, 0.05, 1.0)
    )
]


def reference(row: np.ndarray, s: Sampling, seed: int, position: int) -> int:
    """One row by the stages' own arithmetic, one after the other."""
    row = row[None].copy()
    if s.temperature == 0:
        return int(sample.greedy(row)[0])
    row /= np.float32(s.temperature)
    if s.min_p:
        row[row < row.max() + np.float32(np.log(s.min_p))] = -np.inf
    sample.truncate(row[0], s.top_k, s.top_p)
    return int(sample.draw(row, np.array([seed]), np.array([position]))[0])


def drawn(engine: Engine, logits: np.ndarray, settings: list[Sampling], seeds, positions) -> list[int]:
    wishes = Wishes(len(settings))
    for slot, (seed, s) in enumerate(zip(seeds, settings, strict=True)):
        wishes.set(slot, int(seed), s)
    native = NativeSampler(engine, wishes)
    tokens = native(logits, np.arange(len(settings)), np.array(positions))
    return [int(t) for t in tokens]


def compare(engine: Engine, logits: np.ndarray, settings: list[Sampling]) -> None:
    before = logits.copy()
    seeds = [int(s) for s in np.random.default_rng(1).integers(-(2**63), 2**63 - 1, len(settings))]
    positions = [7 * i for i in range(len(settings))]
    got = drawn(engine, logits, settings, seeds, positions)
    for i, s in enumerate(settings):
        assert got[i] == reference(logits[i], s, seeds[i], positions[i]), s
    assert (logits == before).all(), "logits are only read"


@pytest.mark.parametrize("vocab", [1, 2, 31, 33, 1000, 4099])
@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0, 12.0])
def test_every_wish_draws_the_reference_s_token(guarded_engine, vocab, spread):
    compare(guarded_engine, logits_of(len(WISHES), vocab, vocab, spread), WISHES)


@pytest.mark.parametrize("vocab", [40, 3000])
def test_ties_are_settled_alike(guarded_engine, vocab):
    compare(guarded_engine, np.round(logits_of(len(WISHES), vocab, 3, 1.0)), WISHES)


@pytest.mark.parametrize("share", [0.5, 0.999])
def test_excluded_tokens_are_never_drawn(guarded_engine, share):
    logits = logits_of(len(WISHES), 2000, 5)
    gone = np.random.default_rng(2).random(logits.shape) < share
    gone[:, 77] = False  # somebody is left
    logits[gone] = -np.inf
    compare(guarded_engine, logits, WISHES)


def test_a_whole_vocabulary_of_a_real_size(guarded_engine):
    some = WISHES[::17]
    compare(guarded_engine, logits_of(len(some), 49_152, 9, 2.0), some)


def test_large_logits_and_seeds(guarded_engine):
    logits = logits_of(len(WISHES), 500, 11) * np.float32(1e30)
    compare(guarded_engine, logits, WISHES)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_rows_without_a_likeliest_token_are_handed_back(guarded_engine, odd):
    logits = logits_of(3, 300)
    logits[1] = odd
    settings = [Sampling(temperature=t) for t in (0.0, 0.0, 0.9)]
    got = drawn(guarded_engine, logits, settings, [1, 2, 3], [4, 5, 6])
    assert got[1] == -1
    assert (got[0], got[2]) == tuple(reference(logits[i], settings[i], i + 1, i + 4) for i in (0, 2))


def test_one_odd_logit_is_enough(guarded_engine):
    for odd, at in product((np.nan, np.inf), (0, 150, 299)):
        logits = logits_of(1, 300)
        logits[0, at] = odd
        assert drawn(guarded_engine, logits, [Sampling()], [1], [1]) == [-1]


def test_a_temperature_that_overflows_is_handed_back(guarded_engine):
    logits = logits_of(1, 300) * np.float32(1e30)
    assert drawn(guarded_engine, logits, [Sampling(temperature=1e-12)], [1], [1]) == [-1]


def test_a_row_draws_the_same_alone_and_among_32(guarded_engine):
    settings = WISHES[5::11][:32]
    logits = logits_of(32, 3001, 4)
    seeds, positions = list(range(100, 132)), list(range(32))
    whole = drawn(guarded_engine, logits, settings, seeds, positions)
    for i in range(32):
        assert drawn(guarded_engine, logits[i : i + 1], settings[i : i + 1], seeds[i : i + 1], [i]) == [
            whole[i]
        ]


def test_no_rows_are_no_work(guarded_engine):
    assert drawn(guarded_engine, logits_of(0, 300), [], [], []) == []


def test_a_vocabulary_of_nothing_is_refused(guarded_engine):
    with pytest.raises(NativeError, match="vocabulary"):
        drawn(guarded_engine, np.zeros((1, 0), np.float32), [Sampling()], [1], [1])


def test_the_sampler_s_tokens_do_not_depend_on_the_library(guarded_engine):
    """With edits before the draw, drafts, and rows that are handed back."""
    kinds = [
        dict(temperature=0.0),
        dict(temperature=0.0, logit_bias=((3, 50.0),)),
        dict(temperature=0.7, top_p=0.9, repetition_penalty=1.3),
        dict(top_k=5, presence_penalty=1.5),
        dict(min_p=0.1, bad_words=((4,),)),
        dict(allowed_token_ids=(8, 9)),
    ]
    admissions = [admission(i, range(20, 31), 6, seed=i, **kind) for i, kind in enumerate(kinds)]
    rows = rows_of(admissions, {0: (4, 5), 2: (6,)})
    logits = logits_of(len(rows.slot), 97)
    logits[3], logits[-1] = -np.inf, np.nan
    tokens = []
    for sampler in (Sampler(64), Sampler(64, engine=guarded_engine)):
        for a in admissions:
            sampler.admit(a)
        tokens.append(sampler.sample(logits.copy(), rows).tolist())
    assert tokens[0] == tokens[1]


def test_a_slot_s_next_request_inherits_nothing(guarded_engine):
    sampler, plain = Sampler(64, engine=guarded_engine), Sampler(64)
    first = admission(3, (1, 2), 2, temperature=0.4, top_k=3, top_p=0.5, min_p=0.2, repetition_penalty=2.0)
    sampler.admit(first)
    sampler.release(3)
    second = admission(3, (1, 2), 2, seed=9)
    sampler.admit(second)
    plain.admit(second)
    logits = logits_of(1, 300)
    rows = rows_of([second])
    assert sampler.sample(logits.copy(), rows).tolist() == plain.sample(logits.copy(), rows).tolist()
