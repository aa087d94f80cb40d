"""Steps that leave out what nobody asked for."""

from __future__ import annotations

import numpy as np
import torch

from tests.cpu.runner.tiny import tiny_model, whole_logits

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


def test_the_last_layer_goes_on_with_the_tokens_asked_for() -> None:
    model, backend = tiny_model(3)
    whole = whole_logits(model, backend, TOKENS)
    some = whole_logits(model, backend, TOKENS, last=torch.tensor([7, 2]))
    np.testing.assert_allclose(some, whole[[7, 2]], rtol=1e-5, atol=1e-5)


def test_an_outline_has_a_layer_of_each_window_and_ends() -> None:
    model, backend = tiny_model(3, num_hidden_layers=5)
    before, whole = whole_logits(model, backend, TOKENS), model.layers
    with model.outlined():
        assert len(model.layers) == 2 and model.layers[-1] is whole[-1]
    assert (whole_logits(model, backend, TOKENS) == before).all()
