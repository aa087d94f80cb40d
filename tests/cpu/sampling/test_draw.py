"""Noise, the draw and truncation against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from octavo.ops import sample
from tests.cpu.sampling.rows import logits_of

# Known answers of Random123 for philox4x32 with 10 rounds: counter, key, result.
VECTORS = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "result"), VECTORS)
def test_philox_gives_the_published_answers(counter, key, result):
    assert [int(x) for x in sample.philox(*map(np.array, counter + key))] == result


def test_philox_of_an_array_is_philox_of_its_elements():
    counters = np.arange(100, dtype=np.uint64)
    whole = sample.philox(counters, np.array(3), np.array(9), np.array(0), np.array(5), np.array(6))
    for i in (0, 17, 99):
        one = sample.philox(counters[i], np.array(3), np.array(9), np.array(0), np.array(5), np.array(6))
        assert [int(w[i]) for w in whole] == [int(w) for w in one]


def all_scores(logits: np.ndarray, seed: int, position: int) -> np.ndarray:
    """The definition without pruning: every block and every token gets its noise."""
    vocab = logits.shape[0]
    blocks = -(-vocab // sample.BLOCK)
    seeds, positions = np.array([seed]), np.array([position])
    bits = sample._random(sample._BLOCKS, np.arange(blocks), positions, seeds)
    first = sample._exponential(bits) / sample.BLOCK
    leader = (bits >> np.uint64(59)).astype(np.int64) * blocks + np.arange(blocks)
    later = sample._exponential(sample._random(sample._TOKENS, np.arange(vocab), positions, seeds))
    token = np.arange(vocab)
    time = first[token % blocks] + np.where(token == leader[token % blocks], 0.0, later)
    return logits - np.log(time)


@pytest.mark.parametrize("vocab", [1, 2, 31, 33, 1000, 4096])
@pytest.mark.parametrize("spread", [0.0, 1.0, 12.0])
def test_pruning_never_changes_the_winner(vocab, spread):
    logits = logits_of(40, vocab, vocab, spread)
    logits[:, :: max(2, vocab // 7)] -= np.float32(spread * 3)
    seeds, positions = np.arange(40) * 977 + 2**62, np.arange(40) + 5
    drawn = sample.draw(logits, seeds, positions)
    expected = [all_scores(logits[i], int(seeds[i]), int(positions[i])).argmax() for i in range(40)]
    assert drawn.tolist() == expected


def test_pruning_sees_the_many_unlikely_tokens():
    logits = np.zeros((60, 4096), np.float32)
    logits[:, 77] = 6.0  # a tenth of the probability
    seeds, positions = np.arange(60), np.arange(60)
    drawn = sample.draw(logits, seeds, positions)
    assert drawn.tolist() == [all_scores(logits[i], i, i).argmax() for i in range(60)]
    assert 2 <= (drawn == 77).sum() <= 14


def test_a_token_excluded_is_never_drawn_and_an_empty_row_takes_token_0():
    logits = logits_of(300, 500)
    logits[:, 100:] = -np.inf
    logits[7] = -np.inf
    drawn = sample.draw(logits, np.arange(300), np.arange(300))
    assert drawn.max() < 100
    assert drawn[7] == 0


def surprise(drawn: np.ndarray, probability: np.ndarray) -> float:
    """Chi-square as a standard normal variate (Wilson and Hilferty)."""
    expected = probability * len(drawn)
    seen = np.bincount(drawn, minlength=len(probability))
    keep = expected >= 5
    seen = np.append(seen[keep], seen[~keep].sum())
    expected = np.append(expected[keep], max(expected[~keep].sum(), 1e-9))
    free = len(seen) - 1
    total = ((seen - expected) ** 2 / expected).sum()
    spread = 2 / (9 * free)
    return float(((total / free) ** (1 / 3) - (1 - spread)) / spread**0.5)


@pytest.mark.parametrize("by", ["seed", "position"])
@pytest.mark.parametrize("vocab", [3, 70, 1000])
def test_draws_follow_the_softmax(by, vocab):
    draws = 20_000
    logits = logits_of(1, vocab, 3, 1.5)
    probability = np.exp(logits[0].astype(np.float64))
    probability /= probability.sum()
    some = np.arange(draws)
    none = np.full(draws, 11)
    batch = np.broadcast_to(logits, (2000, vocab))
    drawn = np.concatenate(
        [
            sample.draw(
                batch,
                (some if by == "seed" else none)[at : at + 2000],
                (none if by == "seed" else some)[at : at + 2000],
            )
            for at in range(0, draws, 2000)
        ]
    )
    assert abs(surprise(drawn, probability)) < 3  # a constant: the seeds are fixed
    assert surprise(drawn, np.roll(probability, 1)) > 10, "the test can tell a wrong distribution"


def test_neighbouring_positions_and_seeds_are_independent():
    vocab, n = 2, 20_000
    logits = np.zeros((n, vocab), np.float32)
    for a, b in (
        (
            sample.draw(logits, np.full(n, 1), np.arange(n)),
            sample.draw(logits, np.full(n, 1), np.arange(n) + 1),
        ),
        (
            sample.draw(logits, np.arange(n), np.full(n, 1)),
            sample.draw(logits, np.arange(n) + 1, np.full(n, 1)),
        ),
        (sample.draw(logits, np.arange(n), np.full(n, 1)), sample.draw(logits, np.arange(n), np.full(n, 2))),
    ):
        assert abs(np.mean(a == b) - 0.5) < 0.015


def test_a_row_draws_the_same_alone_and_in_any_batch():
    logits = logits_of(32, 3001)
    seeds, positions = np.arange(32) + 100, np.arange(32) * 3
    whole = sample.draw(logits, seeds, positions)
    order = np.random.default_rng(1).permutation(32)
    assert (sample.draw(logits[order], seeds[order], positions[order]) == whole[order]).all()
    for i in range(0, 32, 5):
        assert sample.draw(logits[i : i + 1], seeds[i : i + 1], positions[i : i + 1])[0] == whole[i]


def test_greedy_takes_the_lowest_of_equals():
    logits = np.zeros((2, 1000), np.float32)
    logits[1, [400, 900]] = 1
    assert sample.greedy(logits).tolist() == [0, 400]


def naive_nucleus(row: np.ndarray, k: int, p: float) -> set[int]:
    order = np.lexsort((np.arange(len(row)), -row))
    order = order[: k or len(row)]
    weight = np.exp(row[order] - row[order[0]]).astype(np.float64)
    share = weight / weight.sum()
    total, kept = 0.0, set()
    for token, part in zip(order, share, strict=True):
        kept.add(int(token))
        total += part
        if total >= p and p < 1:
            break
    return kept


@pytest.mark.parametrize("vocab", [5, 1000, 3000])
@pytest.mark.parametrize("spread", [0.01, 2.0, 8.0])
def test_truncation_keeps_the_nucleus(vocab, spread):
    cases = [
        (0, 0.9),
        (0, 0.1),
        (1, 1.0),
        (3, 1.0),
        (50, 0.95),
        (0, 0.999),
        (2000, 0.8),
        (vocab, 0.5),
        (0, 1e-9),
    ]
    logits = logits_of(len(cases), vocab, vocab, spread)
    work = logits.copy()
    for i, (k, p) in enumerate(cases):
        sample.truncate(work[i], k, p)
        kept = set(np.flatnonzero(work[i] > -np.inf).tolist())
        assert kept == naive_nucleus(logits[i], k, p), (k, p)
        assert (work[i][sorted(kept)] == logits[i][sorted(kept)]).all()


def test_of_equal_logits_at_the_edge_the_lower_ids_stay():
    work = np.zeros((3, 2000), np.float32)
    work[1, 1500:] = 1.0
    for row, k, p in zip(work, (10, 3, 0), (1.0, 1.0, 0.5), strict=True):
        sample.truncate(row, k, p)
    kept = [np.flatnonzero(row > -np.inf).tolist() for row in work]
    assert kept == [list(range(10)), [1500, 1501, 1502], list(range(1000))]


def test_truncation_of_rows_that_are_mostly_excluded():
    work = np.full((3, 5000), -np.inf, np.float32)
    work[0, [10, 20, 30]] = [3.0, 2.0, 1.0]
    work[1, 4000] = 1.0
    for row, k, p in zip(work, (0, 0, 5), (0.7, 0.5, 0.9), strict=True):
        sample.truncate(row, k, p)
    assert np.flatnonzero(work[0] > -np.inf).tolist() == [10, 20]
    assert np.flatnonzero(work[1] > -np.inf).tolist() == [4000]
    assert not (work[2] > -np.inf).any()


@pytest.mark.parametrize("count", [1, 5, 20, 299, 300, 400])
def test_ranked_is_a_stable_sort(count):
    logits = np.round(logits_of(6, 300), 1)  # with ties
    best = sample.ranked(logits, count)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :count]
    assert (best.ids == order).all()
    assert (best.logits == np.take_along_axis(logits, order, 1)).all()


def test_weights_are_exponentials_that_add_up_exactly():
    x = np.linspace(-30, 0, 100_001).astype(np.float32)
    got = sample.weights(x)
    assert np.abs(got * 2.0**-34 - np.exp(x.astype(np.float64))).max() < 2e-7
    assert (np.diff(got) >= 0).all(), "a larger logit never weighs less"
    assert sample.weights(np.array([0, -np.inf, -1000], np.float32)).tolist() == [1 << 34, 0, 0]
    assert got.sum() == got[::-1].sum() == sum(map(int, got))
