"""Log-probabilities and ranks against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from octavo.sampling.logprobs import score
from tests.cpu.sampling.rows import logits_of


@pytest.mark.parametrize("alternatives", [0, 1, 5, 20, 400, 1000, -1])
def test_scores_equal_torch(alternatives):
    logits = logits_of(9, 1000, 4, 5.0)
    tokens = np.random.default_rng(0).integers(0, 1000, 9)
    tokens[0] = logits[0].argmax()
    got = score(logits, tokens, alternatives)
    want = torch.log_softmax(torch.from_numpy(logits).double(), -1).numpy()
    count = 1000 if alternatives < 0 else alternatives
    assert got.top_ids.shape == (9, count)
    np.testing.assert_allclose(got.logprob, want[np.arange(9), tokens], atol=1e-5)
    for i in range(9):
        assert got.rank[i] == 1 + (want[i] > want[i, tokens[i]]).sum()
        assert got.top_ids[i].tolist() == np.argsort(-logits[i], kind="stable")[:count].tolist()
        np.testing.assert_allclose(got.top_logprobs[i], want[i, got.top_ids[i]], atol=1e-5)
    assert got.rank[0] == 1


@pytest.mark.parametrize("ids", [(7,), (999, 0, 5, 500), tuple(range(1000))])
def test_named_tokens_equal_torch(ids):
    logits = logits_of(9, 1000, 4, 5.0)
    logits[3, ::2] = -np.inf
    tokens = np.random.default_rng(0).integers(0, 500, 9) * 2 + 1
    got = score(logits, tokens, 0, ids)
    plain = score(logits, tokens, 0)
    assert (got.logprob == plain.logprob).all() and (got.rank == plain.rank).all()
    want = torch.log_softmax(torch.from_numpy(logits).double(), -1).numpy()
    assert got.top_ids.tolist() == [list(ids)] * 9
    np.testing.assert_allclose(got.top_logprobs, want[:, list(ids)], atol=1e-5)
    for i in range(9):
        assert got.top_ranks[i].tolist() == [1 + (logits[i] > logits[i, id]).sum() for id in ids]


def test_equal_tokens_share_a_rank():
    logits = np.zeros((1, 10), np.float32)
    logits[0, 3] = 1
    got = score(np.repeat(logits, 3, 0), np.array([3, 0, 9]), 4)
    assert got.rank.tolist() == [1, 2, 2]
    assert got.top_ids[0].tolist() == [3, 0, 1, 2]
    named = score(logits, np.array([3]), 0, (9, 3, 0))
    assert named.top_ranks[0].tolist() == [2, 1, 2]
