"""Log-probabilities on the device against the numpy ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from octavo.sampling import logprobs as reference
from octavo.sampling.device.logprobs import score
from tests.cpu.sampling.rows import logits_of
from tests.kernels.fresh import number

BIG = [pytest.param(151936, 20, marks=pytest.mark.gpu), pytest.param(50257, -1, marks=pytest.mark.gpu)]


@pytest.mark.parametrize(
    ("vocab", "alternatives"), [(97, 0), (97, 5), (97, -1), (97, 400), (9000, 20), (8192, 3), *BIG]
)
@pytest.mark.parametrize("ties", [False, True])
def test_scores_are_the_reference_s(vocab, alternatives, ties, device):
    logits = logits_of(7, vocab, number(), 4.0)
    if ties:
        logits = np.round(logits)
    logits[2, 5:] = -np.inf
    logits[3, ::3] = -0.0
    tokens = np.random.default_rng(number()).integers(0, vocab, 7)
    tokens[2] = 3
    got = score(torch.from_numpy(logits).to(device), torch.from_numpy(tokens).to(device), alternatives)
    want = reference.score(logits, tokens, alternatives)
    assert got.rank.tolist() == want.rank.tolist()
    assert got.top_ids.tolist() == want.top_ids.tolist()
    np.testing.assert_allclose(got.logprob.cpu().numpy(), want.logprob, atol=2e-5)
    np.testing.assert_allclose(got.top_logprobs.cpu().numpy(), want.top_logprobs, atol=2e-5)


@pytest.mark.parametrize("vocab", [97, 9000, pytest.param(151936, marks=pytest.mark.gpu)])
def test_named_tokens_are_scored_as_the_reference_does(vocab, device):
    logits = np.round(logits_of(7, vocab, number(), 4.0) * 4) / 4
    logits[2, 5:] = -np.inf
    logits[3, ::3] = -0.0
    tokens = np.random.default_rng(number()).integers(0, vocab, 7)
    tokens[2] = 3
    ids = (vocab - 1, 3, 0, 41, 12)
    given = torch.from_numpy(logits).to(device), torch.from_numpy(tokens).to(device)
    got = score(*given, 0, torch.tensor(ids, device=device))
    want = reference.score(logits, tokens, 0, ids)
    assert got.rank.tolist() == want.rank.tolist()
    assert got.top_ids.tolist() == want.top_ids.tolist()
    assert got.top_ranks.tolist() == want.top_ranks.tolist()
    np.testing.assert_allclose(got.logprob.cpu().numpy(), want.logprob, atol=2e-5)
    np.testing.assert_allclose(got.top_logprobs.cpu().numpy(), want.top_logprobs, atol=2e-5)
