"""What the front asks of the core, and what comes back. Immutable; made by the front."""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec

from octavo.core.events import Timeline


class Finish(str, Enum):
    """Why a request ended (vLLM's words)."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"
    REPETITION = "repetition"  # found by the front


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that decides the next token. Validated by the front; ids lie in [0, vocab).

    `max_tokens` may be 0: the prompt is computed (and scored), nothing is sampled.
    `eos` and `stop_token_ids` end a request once `min_tokens` are out; both are empty
    where they are to be ignored. `temperature` 0 is greedy.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int = 16
    min_tokens: int = 0
    eos: tuple[int, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None  # alternatives per sampled token; -1: the whole vocabulary
    prompt_logprobs: int | None = None
    logprob_token_ids: tuple[int, ...] = ()  # reported in place of the likeliest, with `logprobs` 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()
    extra_args: dict[str, Any] | None = None  # for the logits stages of other packages


class Pooling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request for a vector instead of text."""

    task: str = "embed"
    dimensions: int | None = None
    normalize: bool = True


class ThoughtLimit(msgspec.Struct, frozen=True):
    """At most `tokens` of reasoning between the tags; `inside`: the prompt has opened it."""

    open: str
    close: str
    inside: bool
    tokens: int


class GrammarSpec(msgspec.Struct, frozen=True):
    """A constraint on the output, compiled by the core.

    `kind` and what `text` holds: json (a JSON schema), regex, choice (a JSON list of texts), lark,
    ebnf (llama.cpp's dialect), structural_tag (its JSON document), any (nothing: a `thought` alone).
    `whitespace` is the pattern of white space between the parts of JSON: None lets the backend
    choose, "" allows none.
    """

    kind: str
    text: str
    whitespace: str | None = None
    thought: ThoughtLimit | None = None


class MediaSpan(msgspec.Struct, frozen=True):
    """Where one media item stands in the prompt: `length` placeholder tokens from `at`."""

    hash: bytes
    at: int
    length: int
    atomic: bool = False
    grid: tuple[int, ...] = ()


class EngineRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One row of work.

    `output` holds tokens that were already sent to the client (replay after a crash):
    they count as generated and are never sent again. `seed` keys the row's randomness;
    child i of n has its own. `parent` names request 0 of the same prompt: a child waits
    for the end of the parent's prompt and forks it.
    """

    id: str
    tokens: tuple[int, ...]  # the prompt, never empty
    seed: int  # [0, 2**63)
    output: tuple[int, ...] = ()
    parent: tuple[str, int] | None = None
    sampling: Sampling | None = None
    pooling: Pooling | None = None
    media: tuple[MediaSpan, ...] = ()
    adapter: str | None = None
    grammar: GrammarSpec | None = None
    priority: int = 0  # lower runs first under the priority policy
    patient: bool = False  # comes after every request that is not, under any policy
    arrived: float = 0.0  # monotonic seconds
    salt: str = ""  # separates prefix caches (tenant, cache_salt)
    skip_cache: bool = False  # do not read the prefix cache (prompt log-probabilities)
    trace: str = ""


class PositionLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log-probabilities at one position; `top` is sorted, so ranks there are 1, 2, ..., or it holds the ids
    that were asked for by name, and `top_ranks` says which place each has."""

    token: int
    logprob: float
    rank: int  # 1-based rank of `token`
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()
    top_ranks: tuple[int, ...] = ()


class Delta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """News of one request, core to front. `cached_tokens` comes with the first one.

    `stop_token` is the id that ended it (an EOS or a stop token id) and is included in
    `tokens` as its last element; `error` explains Finish.ERROR, `refused` says that the request
    itself is to blame.
    """

    id: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[PositionLogprobs, ...] = ()
    prompt_logprobs: tuple[PositionLogprobs, ...] = ()  # positions 1..; position 0 has none
    vector: bytes | None = None
    cached_tokens: int | None = None
    finish: Finish | None = None
    stop_token: int | None = None
    error: str | None = None
    refused: bool = False
    timeline: Timeline | None = None  # with `finish`
