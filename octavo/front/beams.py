"""Beam searches over the requests of this house: what to compute next, and what came of it.

The same for `LLM` and the server; they only run the requests. A step's requests share all but their last
tokens with those of the step before, so what is computed is what the prefix cache does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from octavo.core.errors import Fault, UserError
from octavo.front.beam import Beam, BeamSearch, BeamSearchParams
from octavo.front.logprobs import Logprob, SampleLogprobs
from octavo.front.outputs import RequestOutput
from octavo.front.params import SamplingParams
from octavo.front.prepared import Prepared
from octavo.front.prompt import PLAIN, Options, PromptBuilder

ONE_TOKEN = SamplingParams(max_tokens=1)  # there must be room for an answer


@dataclass(slots=True)
class BeamSearchSequence:
    """One answer, with vLLM's fields: `tokens` and `text` begin with the prompt."""

    tokens: list[int]
    logprobs: SampleLogprobs
    cum_logprob: float
    text: str | None
    finish_reason: str | None
    stop_reason: int | str | None = None
    lora_request: Any = None


@dataclass(slots=True)
class BeamSearchOutput:
    """The best answers to one prompt, the best of all first."""

    sequences: list[BeamSearchSequence]


class Search:
    """The search over one prompt. Until it is `done`: run `requests`, then `take` the alternatives of
    each one's token."""

    def __init__(
        self,
        builder: PromptBuilder,
        prepared: Prepared,
        params: BeamSearchParams,
        options: Options = PLAIN,
    ) -> None:
        self.prepared = prepared
        self.params = params
        self._builder = builder
        self._options = msgspec.structs.replace(options, id=None, truncate=None, strict=False)
        room = builder.max_model_len - len(prepared.token_ids)
        most = msgspec.structs.replace(params, max_tokens=max(1, min(params.max_tokens, room)))
        self._search = BeamSearch(most, len(prepared.token_ids), builder.eos)
        self._step = _step_params(builder, params)

    @property
    def done(self) -> bool:
        return self._search.done

    def requests(self) -> list[Prepared]:
        """One for each open beam, of one token."""
        prompt = self.prepared.token_ids
        return [
            self._builder.build({"prompt_token_ids": (*prompt, *beam.tokens)}, self._step, self._options)
            for beam in self._search.open
        ]

    def take(self, rows: Sequence[Mapping[int, Logprob]]) -> None:
        """In the order of `requests`."""
        self._search.feed(rows)

    def best(self) -> list[Beam]:
        return self._search.best()

    def text(self, beam: Beam, *, skip_special: bool = True) -> str:
        """What a beam says; the token that ended it is not shown, unless that was asked for."""
        tokenizer = self._builder.tokenizer
        if tokenizer is None:
            return ""
        hide = beam.finish == "stop" and not self.params.include_stop_str_in_output
        stream = tokenizer.detokenizer(skip_special=skip_special, before=self.prepared.token_ids)
        return stream.feed(beam.tokens[:-1] if hide else beam.tokens) + stream.close()

    def output(self) -> BeamSearchOutput:
        return BeamSearchOutput([self._sequence(beam) for beam in self.best()])

    def _sequence(self, beam: Beam) -> BeamSearchSequence:
        prepared, tokenizer = self.prepared, self._builder.tokenizer
        prompt = prepared.prompt
        if prompt is None and tokenizer is not None:
            prompt = tokenizer.decode(prepared.token_ids)
        return BeamSearchSequence(
            tokens=[*prepared.token_ids, *beam.tokens],
            logprobs=[dict(row) for row in beam.rows],
            cum_logprob=beam.logprob,
            text=None if tokenizer is None else (prompt or "") + self.text(beam),
            finish_reason=beam.finish,
            stop_reason=beam.tokens[-1] if beam.finish == "stop" else None,
        )


def _step_params(builder: PromptBuilder, params: BeamSearchParams) -> SamplingParams:
    """UserError when the engine may not tell so many alternatives."""
    wanted, most = min(2 * params.beam_width, builder.vocab_size), builder.max_logprobs
    if wanted > most:
        raise UserError(
            f"beam_width is {params.beam_width}, the limit is {most // 2}",
            hint=f"lower it, or raise --max-logprobs to {wanted}",
            field="beam_width",
        )
    return SamplingParams(temperature=0.0, max_tokens=1, logprobs=wanted, ignore_eos=True, skip_clone=True)


def alternatives(output: RequestOutput) -> Mapping[int, Logprob]:
    """Of the one token of a step's request. Fault when it has none."""
    (answer,) = output.outputs
    if not answer.logprobs:
        raise Fault(f"a step of the beam search ended with {answer.finish_reason!r}")
    return answer.logprobs[0]
