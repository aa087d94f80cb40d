"""Deltas of one request to what its reader sees. Knows nothing of queues, HTTP or time.

A machine of feed -> chunk: detokenises, watches for stop strings, names log-probabilities, counts
tokens. Whole answers are folded chunks, so a stream and its whole cannot differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from octavo.core.events import Timeline
from octavo.core.request import Delta, EngineRequest, Finish, PositionLogprobs
from octavo.front.logprobs import Logprob
from octavo.front.prepared import Prepared
from octavo.front.repetition import Repetition, first
from octavo.text.stop import StopStrings
from octavo.text.tokenizer import Tokenizer


class Usage(NamedTuple):
    """Tokens of a request; `prompt` is counted once, whatever n."""

    prompt: int
    completion: int
    cached: int


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """News of answer `index`. `text` never ends inside a character or a possible stop string.

    `logprobs` has one mapping a token when they were asked for: the sampled token first, then the
    alternatives by rank, or the tokens that were named. `prompt_logprobs` begins with None for
    position 0. `error` explains finish_reason "error", `refused` that the request itself is to blame.
    """

    index: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[dict[int, Logprob], ...] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    prompt_logprobs: tuple[dict[int, Logprob] | None, ...] | None = None
    cached_tokens: int | None = None
    error: str | None = None
    refused: bool = False
    timeline: Timeline | None = None


class Answer:
    """Folds the deltas of all rows of one request.

    `aborts` collects rows the engine should give up, because a stop string ended them; the owner
    takes them with `take_aborts`. `done` once every row has finished.
    """

    def __init__(self, prepared: Prepared, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._prompt_tokens = len(prepared.token_ids)
        self._rows = {
            request.id: _Row(index, prepared, request, tokenizer)
            for index, request in enumerate(prepared.requests)
        }
        self._open = len(self._rows)
        self._aborts: list[str] = []

    @property
    def done(self) -> bool:
        return self._open == 0

    @property
    def usage(self) -> Usage:
        rows = self._rows.values()
        return Usage(self._prompt_tokens, sum(row.generated for row in rows), max(row.cached for row in rows))

    def take_aborts(self) -> tuple[str, ...]:
        aborts, self._aborts = self._aborts, []
        return tuple(aborts)

    def unfinished(self) -> tuple[str, ...]:
        """Rows the engine may still be working on."""
        return tuple(id for id, row in self._rows.items() if not row.finished)

    def feed(self, delta: Delta) -> Chunk | None:
        """None when there is nothing to tell: late news of a row that has ended, or an empty delta."""
        row = self._rows.get(delta.id)
        if row is None or row.finished:
            return None
        chunk = row.feed(delta)
        if row.finished:
            self._open -= 1
            if delta.finish is None:
                self._aborts.append(delta.id)
        return chunk


class _Row:
    """One of the n answers."""

    def __init__(
        self, index: int, prepared: Prepared, request: EngineRequest, tokenizer: Tokenizer | None
    ) -> None:
        params = prepared.params
        self._index = index
        self._params = params
        self._tokenizer = tokenizer
        self._eos = frozenset(request.sampling.eos if request.sampling else ())
        self._text = None
        if tokenizer is not None and params.detokenize:
            self._text = tokenizer.detokenizer(
                skip_special=params.skip_special_tokens, before=prepared.token_ids
            )
        self._stops = (
            StopStrings(params.stop, include=params.include_stop_str_in_output)
            if self._text is not None and params.stop
            else None
        )
        asked = params.repetition_detection
        self._circles = Repetition(asked) if asked is not None and asked.max_pattern_size else None
        self._scoring = request.sampling is not None and request.sampling.prompt_logprobs is not None
        self._scored = False  # whether prompt log-probabilities began
        self.generated = 0
        self.cached = 0
        self.finished = False

    def feed(self, delta: Delta) -> Chunk | None:
        if self._circles is not None:
            delta = self._cut(self._circles, delta)
        tokens, text, finish, reason = self._fold(delta)
        if delta.cached_tokens is not None:
            self.cached = delta.cached_tokens
        empty = not (tokens or text or finish or delta.prompt_logprobs or delta.cached_tokens is not None)
        if empty:
            return None
        self.finished = finish is not None
        return Chunk(
            index=self._index,
            text=text,
            token_ids=tokens,
            logprobs=self._logprobs(delta, len(tokens)),
            finish_reason=finish,
            stop_reason=reason,
            prompt_logprobs=self._prompt_logprobs(delta),
            cached_tokens=delta.cached_tokens,
            error=delta.error,
            refused=delta.refused,
            timeline=delta.timeline,
        )

    def _cut(self, circles: Repetition, delta: Delta) -> Delta:
        """Up to where the answer begins to go round in circles, if it does; min_tokens come before."""
        at = first(circles, delta.tokens, max(0, self._params.min_tokens - 1 - self.generated))
        if at is None or (at == len(delta.tokens) - 1 and delta.finish is not None):
            return delta
        return msgspec.structs.replace(
            delta,
            tokens=delta.tokens[: at + 1],
            logprobs=delta.logprobs[: at + 1],
            finish=Finish.REPETITION,
            stop_token=None,
        )

    def _fold(self, delta: Delta) -> tuple[tuple[int, ...], str, str | None, int | str | None]:
        """(tokens that count, text that is certain, finish reason, stop reason)"""
        finish = None if delta.finish is None else delta.finish.value
        reason: int | str | None = delta.stop_token if delta.stop_token not in self._eos else None
        if delta.finish is Finish.REPETITION:
            reason = "repetition_detected"
        if self._text is None:
            self.generated += len(delta.tokens)
            return delta.tokens, "", finish, reason
        shown = len(delta.tokens)
        if delta.finish is Finish.STOP and not self._params.include_stop_str_in_output:
            shown = max(shown - 1, 0)  # the token that ended it is counted, its text is not shown
        if self._stops is None:
            self.generated += len(delta.tokens)
            text = self._text.feed(delta.tokens[:shown])
            return delta.tokens, text + (self._text.close() if finish else ""), finish, reason
        return self._fold_watching(delta, shown, finish, reason)

    def _fold_watching(
        self, delta: Delta, shown: int, finish: str | None, reason: int | str | None
    ) -> tuple[tuple[int, ...], str, str | None, int | str | None]:
        """Token by token, so that it does not matter how many come in one delta."""
        assert self._text is not None and self._stops is not None
        parts = []
        for at, token in enumerate(delta.tokens):
            self.generated += 1
            if at >= shown:
                break
            armed = self.generated > self._params.min_tokens
            parts.append(self._stops.feed(self._text.feed((token,)), armed=armed))
            if self._stops.matched is not None:
                return delta.tokens[: at + 1], "".join(parts), Finish.STOP.value, self._stops.matched
        if finish:
            parts.append(self._stops.feed(self._text.close()))
            if self._stops.matched is not None:
                return delta.tokens, "".join(parts), Finish.STOP.value, self._stops.matched
            parts.append(self._stops.close())
        return delta.tokens, "".join(parts), finish, reason

    def _logprobs(self, delta: Delta, count: int) -> tuple[dict[int, Logprob], ...] | None:
        if not self._params.scores:
            return None
        return tuple(self._named(position) for position in delta.logprobs[:count])

    def _prompt_logprobs(self, delta: Delta) -> tuple[dict[int, Logprob] | None, ...] | None:
        if not delta.prompt_logprobs and (self._scored or not self._scores_one_token(delta)):
            return None
        positions = tuple(self._named(position) for position in delta.prompt_logprobs)
        first = () if self._scored else (None,)
        self._scored = True
        return (*first, *positions)

    def _scores_one_token(self, delta: Delta) -> bool:
        """A prompt of one token has nothing but its None."""
        return self._scoring and bool(delta.tokens or delta.finish)

    def _named(self, position: PositionLogprobs) -> dict[int, Logprob]:
        row = {position.token: Logprob(position.logprob, position.rank, self._name(position.token))}
        ranks = position.top_ranks or range(1, len(position.top_ids) + 1)
        for id, value, rank in zip(position.top_ids, position.top_logprobs, ranks, strict=True):
            if id not in row:
                row[id] = Logprob(value, rank, self._name(id))
        return row

    def _name(self, id: int) -> str | None:
        if self._tokenizer is None or not self._params.detokenize:
            return None
        return self._tokenizer.token_text(id)


def cumulative(logprobs: Sequence[dict[int, Logprob]]) -> float:
    """Sum over the sampled tokens, which come first in each mapping."""
    return sum(next(iter(row.values())).logprob for row in logprobs)
