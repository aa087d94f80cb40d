"""The core's own look at token ids. One id outside the vocabulary would read another row's memory or
end a step for everybody, so the core does not take the front's word for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from octavo.core.errors import UserError
from octavo.core.request import EngineRequest, Sampling


def check_ids(request: EngineRequest, vocab: int) -> None:
    """UserError, naming the list, when any id of the request lies outside [0, vocab)."""
    if not request.tokens:
        raise UserError("the prompt is empty", field="prompt", hint="send at least one token")
    for field, ids in _lists(request):
        if ids and not (min(ids) >= 0 and max(ids) < vocab):
            raise UserError(
                f"{field} holds a token id outside [0, {vocab})", field=field, hint="use ids of this model"
            )


def _lists(request: EngineRequest) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "prompt", request.tokens
    yield "output", request.output
    if request.sampling is not None:
        yield from _sampling(request.sampling)


def _sampling(sampling: Sampling) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "eos", sampling.eos
    yield "stop_token_ids", sampling.stop_token_ids
    yield "allowed_token_ids", sampling.allowed_token_ids or ()
    yield "logit_bias", tuple(token for token, _ in sampling.logit_bias)
    yield "bad_words", tuple(_flat(sampling.bad_words))


def _flat(words: Iterable[tuple[int, ...]]) -> Iterator[int]:
    for word in words:
        yield from word
