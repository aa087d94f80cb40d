"""Log-probabilities in the two shapes of the wire. Knows no request.

JSON has no -inf: -9999.0 stands for it, as clients of this dialect expect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from octavo.front.logprobs import Logprob
from octavo.server.openai.types import (
    ChatLogprobs,
    CompletionLogprobs,
    PromptLogprob,
    PromptLogprobs,
    TokenLogprob,
    TopLogprob,
)
from octavo.text.tokenizer import Tokenizer

Row = Mapping[int, Logprob]
LOWEST = -9999.0


class Names(NamedTuple):
    """How tokens are written: as text, or as "token_id:N"."""

    tokenizer: Tokenizer | None
    as_ids: bool

    def text(self, id: int, logprob: Logprob) -> str:
        if self.as_ids or logprob.decoded_token is None:
            return f"token_id:{id}"
        return logprob.decoded_token

    def octets(self, id: int) -> list[int] | None:
        return None if self.tokenizer is None else list(self.tokenizer.token_bytes(id))


def bounded(value: float) -> float:
    return max(value, LOWEST)


def chat_logprobs(rows: Iterable[Row], most: int, names: Names) -> ChatLogprobs:
    """The sampled token stands first in each row; `most` alternatives are shown, -1: all."""
    return ChatLogprobs([_token(row, most, names) for row in rows])


def _token(row: Row, most: int, names: Names) -> TokenLogprob:
    id, sampled = next(iter(row.items()))
    top = [
        TopLogprob(names.text(other, value), bounded(value.logprob), names.octets(other))
        for other, value in _best(row, most)
    ]
    return TokenLogprob(names.text(id, sampled), bounded(sampled.logprob), names.octets(id), top)


def _best(row: Row, most: int) -> list[tuple[int, Logprob]]:
    """By rank, as far as asked for."""
    ranked = sorted(row.items(), key=lambda pair: pair[1].rank or 0)
    return [(id, value) for id, value in ranked if most < 0 or (value.rank or 0) <= most]


def completion_logprobs(
    rows: Iterable[Row | None], most: int, names: Names, offset: int
) -> tuple[CompletionLogprobs, int]:
    """`offset` is where the first token begins in the reply's text; returns where the next one does.
    Rows of None, for the prompt's first token, are left out."""
    out = CompletionLogprobs([], [], [], [])
    for row in rows:
        if row is None:
            continue
        id, sampled = next(iter(row.items()))
        text = names.text(id, sampled)
        out.tokens.append(text)
        out.token_logprobs.append(bounded(sampled.logprob))
        best = {names.text(i, v): bounded(v.logprob) for i, v in reversed(_best(row, most))}
        best.pop(text, None)  # tokens may share a text: the sampled one keeps it, then the better
        out.top_logprobs.append({text: bounded(sampled.logprob), **best})
        out.text_offset.append(offset)
        offset += len(sampled.decoded_token or text)
    return out, offset


def first_prompt_token(id: int, names: Names) -> tuple[CompletionLogprobs, int]:
    """Echoed prompts begin with a token that nothing predicts; and where the second one begins."""
    text = "" if names.tokenizer is None else names.tokenizer.token_text(id)
    name = text if text and not names.as_ids else f"token_id:{id}"
    return CompletionLogprobs([0], [None], [name], [None]), len(text or name)


def joined(parts: Sequence[CompletionLogprobs]) -> CompletionLogprobs:
    out = CompletionLogprobs([], [], [], [])
    for part in parts:
        out.text_offset += part.text_offset
        out.token_logprobs += part.token_logprobs
        out.tokens += part.tokens
        out.top_logprobs += part.top_logprobs
    return out


def prompt_logprobs(rows: Iterable[Row | None], names: Names) -> PromptLogprobs:
    """A mapping of each position; None at the first."""
    return [
        None if row is None else {str(id): _prompt(id, v, names) for id, v in row.items()} for row in rows
    ]


def _prompt(id: int, value: Logprob, names: Names) -> PromptLogprob:
    return PromptLogprob(bounded(value.logprob), value.rank, names.text(id, value))
