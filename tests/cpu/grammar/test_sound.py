"""Five hundred schemas without a model: tokens drawn blindly from the masks still make valid documents."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest

from octavo.core.facts import ModelFiles
from octavo.core.request import GrammarSpec
from octavo.grammar.backend import Matcher, Vocabulary
from octavo.grammar.guidance import GuidanceBackend
from octavo.text.tokenizer import Tokenizer
from tests.e2e.schemas import WRITTEN, made

TOKENS = 600


@pytest.fixture(scope="module")
def tokenizer(default_model: ModelFiles) -> Tokenizer:
    return Tokenizer.load(default_model.tokenizer)


@pytest.fixture(scope="module")
def backend(tokenizer: Tokenizer) -> GuidanceBackend:
    return GuidanceBackend(
        Vocabulary(
            [tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)],
            sorted(tokenizer.special_ids),
            tokenizer.eos_token_ids,
            lambda text: tokenizer.encode(text, add_special=False, parse_special=False),
        )
    )


def allowed_by(matcher: Matcher) -> np.ndarray:
    return np.flatnonzero(np.unpackbits(np.frombuffer(matcher.fill(), np.uint8), bitorder="little"))


def check_forced(matcher: Matcher, forced: list[int]) -> None:
    """Each is the only token its mask allows; the matcher stays where it was."""
    for token in forced:
        assert allowed_by(matcher).tolist() == [token] and not matcher.may_end
        assert matcher.accept(token)
    matcher.rollback(len(forced))


def wander(
    backend: GuidanceBackend, spec: GrammarSpec, rng: np.random.Generator, certain: list[int]
) -> list[int] | None:
    """A random output, which ends as soon as it may; None when it does not come to an end. `certain` gets the
    lengths of what had no choice on the way."""
    matcher, ids = backend.compile(spec), []
    while len(ids) < TOKENS:
        if matcher.may_end:
            return ids
        allowed = allowed_by(matcher)
        assert len(allowed), "a dead end"
        if forced := list(matcher.forced()):
            check_forced(matcher, forced)
            certain.append(len(forced))
        ids.append(int(rng.choice(allowed)))
        assert matcher.accept(ids[-1])
    return None


def test_whatever_the_masks_allow_validates(backend: GuidanceBackend, tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(1)
    ended = 0
    certain: list[int] = []
    schemas = [*WRITTEN, *made(460)]
    for n, schema in enumerate(schemas):
        ids = wander(backend, GrammarSpec("json", json.dumps(schema), "" if n % 2 else None), rng, certain)
        if ids is None:
            continue
        text = b"".join(tokenizer.token_bytes(id) for id in ids).decode()
        kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
        kind(schema, format_checker=kind.FORMAT_CHECKER).validate(json.loads(text))
        ended += 1
    assert ended > 0.95 * len(schemas)
    assert len(certain) > 500 and max(certain) > 5
