"""Acceptance of drafts and the end of a request."""

from __future__ import annotations

import numpy as np
import pytest

from octavo.core.messages import EOS, LENGTH, RUNNING, STOP
from octavo.sampling import verify


def test_without_drafts_every_row_keeps_its_one_sample():
    assert verify.accept(np.array([[5], [6]]), np.zeros((2, 0), int), np.zeros(2, int)).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("samples", "drafts", "proposed", "count"),
    [
        ([1, 2, 3], [1, 2], 2, 3),
        ([1, 9, 3], [1, 2], 2, 2),
        ([9, 2, 3], [1, 2], 2, 1),
        ([1, 2, 3], [1, 2], 1, 2),  # the second draft is stale, not proposed
        ([1, 2, 3], [1, 2], 0, 1),
    ],
)
def test_drafts_count_while_they_equal_the_samples(samples, drafts, proposed, count):
    got = verify.accept(np.array([samples]), np.array([drafts]), np.array([proposed]))
    assert got.tolist() == [count]


def limits(**given) -> verify.Limits:
    base = dict(eos=[[-1, -1]], stop=[[-1, -1]], earliest=[0], last=[1000])
    return verify.Limits(**{key: np.array(value) for key, value in {**base, **given}.items()})


@pytest.mark.parametrize(
    ("samples", "counts", "given", "count", "why"),
    [
        ([7], 1, {}, 1, RUNNING),
        ([7], 1, dict(eos=[[7, -1]]), 1, EOS),
        ([7], 1, dict(stop=[[3, 7]]), 1, STOP),
        ([7], 1, dict(eos=[[7, -1]], stop=[[7, -1]]), 1, EOS),
        ([7], 1, dict(last=[10]), 1, LENGTH),
        ([7], 1, dict(eos=[[7, -1]], last=[10]), 1, EOS),
        ([7], 1, dict(eos=[[7, -1]], earliest=[10]), 1, EOS),
        ([7], 1, dict(eos=[[7, -1]], earliest=[11]), 1, RUNNING),
        ([5, 7, 8], 3, dict(eos=[[7, -1]]), 2, EOS),
        ([5, 7, 8], 3, dict(eos=[[7, -1]], earliest=[12]), 3, RUNNING),
        ([5, 7, 8], 1, dict(eos=[[7, -1]]), 1, RUNNING),  # rejected tokens end nothing
        ([5, 6, 8], 3, dict(last=[11]), 2, LENGTH),
    ],
)
def test_the_first_token_that_ends_a_row_cuts_it(samples, counts, given, count, why):
    got, finished = verify.finish(np.array([samples]), np.array([counts]), np.array([10]), limits(**given))
    assert (got.tolist(), finished.tolist()) == ([count], [why])
