"""SamplingParams to the engine's Sampling, with a model at hand. Checks ids and counts against it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from octavo.config.grammar import GrammarConfig
from octavo.core.errors import Unsupported, UserError
from octavo.core.plugins import logits_stages
from octavo.core.request import GrammarSpec, Sampling
from octavo.front.forms import check_ids
from octavo.front.params import SamplingParams
from octavo.front.structured import Grammars
from octavo.grammar.thought import Thought, after_thought, limited
from octavo.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_MOST_WORD_TOKENS = 64


class Lowering:
    """What stays the same for all requests of a model."""

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        vocab: int,
        eos: Sequence[int],
        max_logprobs: int,
        grammar: GrammarConfig,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab = vocab
        self.eos = tuple(dict.fromkeys(id for id in eos if 0 <= id < vocab))
        self.max_logprobs = vocab if max_logprobs < 0 else max_logprobs
        self._grammars = Grammars(grammar)
        self._deaf = not logits_stages()

    def sampling(self, params: SamplingParams, max_tokens: int) -> Sampling:
        """UserError names the field whose ids or count this model does not have."""
        allowed = params.allowed_token_ids
        named = self._ids("logprob_token_ids", params.logprob_token_ids or ())
        return Sampling(
            temperature=0.0 if params.greedy else params.temperature,
            top_p=params.top_p,
            top_k=min(params.top_k, self._vocab),
            min_p=params.min_p,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            repetition_penalty=params.repetition_penalty,
            max_tokens=max_tokens,
            min_tokens=min(params.min_tokens, max_tokens),
            eos=() if params.ignore_eos else self.eos,
            stop_token_ids=self._ids("stop_token_ids", params.stop_token_ids or ()),
            logprobs=0 if named else self._alternatives("logprobs", params.logprobs),
            prompt_logprobs=self._alternatives("prompt_logprobs", params.prompt_logprobs),
            logprob_token_ids=named,
            logit_bias=self._bias(params),
            allowed_token_ids=None if allowed is None else self._ids("allowed_token_ids", allowed),
            bad_words=self._bad_words(params.bad_words or ()),
            extra_args=self._extra_args(params),
        )

    def grammar(self, params: SamplingParams, thought: Thought | None = None) -> GrammarSpec | None:
        """The constraint on the answer, if there is one; it begins after the `thought`. UserError
        says what in it cannot be."""
        asked, most = params.structured_outputs, params.thinking_token_budget
        spec = None if asked is None else self._grammars.spec(asked)
        if spec is not None and thought is not None:
            spec = after_thought(spec, thought)
        if most is None:
            return spec
        if thought is None:
            raise Unsupported(
                "thinking_token_budget is not available: how this model marks its reasoning is not known",
                hint="leave it out",
                field="thinking_token_budget",
            )
        return limited(spec, thought, most)

    def check_detokenize(self, params: SamplingParams) -> None:
        """Without a tokenizer there is no text to search."""
        if self._tokenizer is not None:
            return
        for field in ("stop", "bad_words", "structured_outputs"):
            value = getattr(params, field)
            if value:
                raise UserError(
                    f"{field} needs a tokenizer", hint="start without skip_tokenizer_init", field=field
                )

    def _ids(self, field: str, ids: Sequence[int]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(check_ids(ids, self._vocab, field)))

    def _bias(self, params: SamplingParams) -> tuple[tuple[int, float], ...]:
        bias = params.logit_bias or {}
        check_ids(list(bias), self._vocab, "logit_bias")
        return tuple(sorted(bias.items()))

    def _extra_args(self, params: SamplingParams) -> dict[str, Any] | None:
        """Ours or not, they go to the core; it is said once when nobody there reads them."""
        if params.extra_args and self._deaf:
            self._deaf = False
            log.warning("extra_args have no effect: no installed package brings a logits stage")
        return params.extra_args or None

    def _alternatives(self, field: str, count: int | None) -> int | None:
        if count is None:
            return None
        wanted = self._vocab if count < 0 else count
        if wanted > self.max_logprobs:
            raise UserError(
                f"{field} is {count}, the limit is {self.max_logprobs}",
                hint="ask for fewer or raise --max-logprobs",
                field=field,
            )
        return count if count < self._vocab else -1

    def _bad_words(self, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        if not words or self._tokenizer is None:
            return ()
        forms = [form for word in words for form in self._tokenizer.word_forms(word)]
        if any(len(form) > _MOST_WORD_TOKENS for form in forms):
            raise UserError(
                f"a bad word has more than {_MOST_WORD_TOKENS} tokens", hint="shorten it", field="bad_words"
            )
        return tuple(dict.fromkeys(forms))
