"""What generate() returns, with vLLM's names and fields. Plain values: nothing here computes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from octavo.front.logprobs import FlatLogprobs, PromptLogprobs, SampleLogprobs

log = logging.getLogger(__name__)


@dataclass(slots=True)
class RequestStateStats:
    """Times of one request. `arrival_time` is of the wall clock, the others are monotonic seconds."""

    num_generation_tokens: int = 0
    arrival_time: float = 0.0
    queued_ts: float = 0.0
    scheduled_ts: float = 0.0
    first_token_ts: float = 0.0
    last_token_ts: float = 0.0
    first_token_latency: float = 0.0
    is_corrupted: bool = False


@dataclass(slots=True)
class CompletionOutput:
    """One of the n answers. `stop_reason` is the stop string or stop token id that ended it, None
    when an end-of-text token or a limit did."""

    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None = None
    logprobs: SampleLogprobs | None = None
    routed_experts: Any = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    lora_request: Any = None

    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(init=False, slots=True)
class RequestOutput:
    """A prompt with its answers so far."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int] | None
    prompt_logprobs: PromptLogprobs | None
    outputs: list[CompletionOutput]
    finished: bool
    metrics: RequestStateStats | None = None
    lora_request: Any = None
    encoder_prompt: str | None = None
    encoder_prompt_token_ids: list[int] | None = None
    num_cached_tokens: int | None = None
    kv_transfer_params: Mapping[str, Any] | None = field(default=None, repr=False)

    def __init__(
        self,
        request_id: str,
        prompt: str | None,
        prompt_token_ids: list[int] | None,
        prompt_logprobs: PromptLogprobs | None,
        outputs: list[CompletionOutput],
        finished: bool,
        metrics: RequestStateStats | None = None,
        lora_request: Any = None,
        encoder_prompt: str | None = None,
        encoder_prompt_token_ids: list[int] | None = None,
        num_cached_tokens: int | None = None,
        *,
        kv_transfer_params: Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> None:
        if unknown:  # programs may construct these with fields of another version
            log.warning("RequestOutput: ignored %s", ", ".join(sorted(unknown)))
        self.request_id = request_id
        self.prompt = prompt
        self.prompt_token_ids = prompt_token_ids
        self.prompt_logprobs = prompt_logprobs
        self.outputs = outputs
        self.finished = finished
        self.metrics = metrics
        self.lora_request = lora_request
        self.encoder_prompt = encoder_prompt
        self.encoder_prompt_token_ids = encoder_prompt_token_ids
        self.num_cached_tokens = num_cached_tokens
        self.kv_transfer_params = kv_transfer_params

    def add(self, next_output: RequestOutput, aggregate: bool) -> None:
        """Takes a later output of the same request in: `aggregate` appends deltas, otherwise the
        later answers replace the earlier ones."""
        self.finished |= next_output.finished
        self.metrics = next_output.metrics or self.metrics
        mine = {output.index: at for at, output in enumerate(self.outputs)}
        for output in next_output.outputs:
            at = mine.get(output.index)
            if at is None:
                self.outputs.append(output)
            elif aggregate:
                _append(self.outputs[at], output)
            else:
                self.outputs[at] = output


def _append(into: CompletionOutput, more: CompletionOutput) -> None:
    into.text += more.text
    into.token_ids = [*into.token_ids, *more.token_ids]
    into.cumulative_logprob = more.cumulative_logprob
    if more.logprobs:
        joined: SampleLogprobs = FlatLogprobs() if isinstance(more.logprobs, FlatLogprobs) else []
        joined.extend(into.logprobs or ())
        joined.extend(more.logprobs)
        into.logprobs = joined
    into.finish_reason = more.finish_reason
    into.stop_reason = more.stop_reason
