"""Chunks to RequestOutput, for programs that read vLLM's objects. Knows nothing of text or time."""

from __future__ import annotations

from octavo.core.events import Timeline
from octavo.front.answer import Chunk, cumulative
from octavo.front.logprobs import FlatLogprobs, PromptLogprobs, SampleLogprobs, gathered
from octavo.front.outputs import CompletionOutput, RequestOutput, RequestStateStats
from octavo.front.params import RequestOutputKind
from octavo.front.prepared import Prepared


class Collector:
    """Keeps what was said so far and shows it as the request's output_kind wants.

    `kind` overrides the request's own (LLM.generate always waits for the end).
    """

    def __init__(self, prepared: Prepared, kind: RequestOutputKind | None = None) -> None:
        params = prepared.params
        self._prepared = prepared
        self._kind = kind or params.output_kind
        self._scores = params.scores
        self._flat = params.flat_logprobs
        self._rows = [_Gathered(index, self._flat) for index in range(len(prepared.requests))]
        self._prompt_logprobs: PromptLogprobs | None = None
        if params.prompt_logprobs is not None:
            self._prompt_logprobs = FlatLogprobs() if self._flat else []
        self._cached: int | None = None
        self._timeline = Timeline()

    @property
    def done(self) -> bool:
        return all(row.finish is not None for row in self._rows)

    def add(self, chunk: Chunk) -> RequestOutput | None:
        """The output to show now, or None when its reader wants to wait."""
        row = self._rows[chunk.index]
        row.add(chunk)
        if chunk.cached_tokens is not None:
            self._cached = max(self._cached or 0, chunk.cached_tokens)
        if chunk.prompt_logprobs is not None and self._prompt_logprobs is not None:
            self._prompt_logprobs.extend(chunk.prompt_logprobs)
        self._timeline = chunk.timeline or self._timeline
        if self._kind is RequestOutputKind.FINAL_ONLY:
            return self.whole() if self.done else None
        if self._kind is RequestOutputKind.DELTA:
            return self._output([_delta(chunk, row, self._scores, self._flat)])
        return self._output([row.whole(self._scores)])

    def whole(self) -> RequestOutput:
        """Everything so far."""
        return self._output([row.whole(self._scores) for row in self._rows])

    def _output(self, outputs: list[CompletionOutput]) -> RequestOutput:
        prepared = self._prepared
        return RequestOutput(
            request_id=prepared.id,
            prompt=prepared.prompt,
            prompt_token_ids=list(prepared.token_ids),
            prompt_logprobs=self._prompt_logprobs,
            outputs=outputs,
            finished=self.done,
            metrics=self._stats(),
            num_cached_tokens=self._cached,
        )

    def _stats(self) -> RequestStateStats:
        times = self._timeline
        return RequestStateStats(
            num_generation_tokens=sum(len(row.tokens) for row in self._rows),
            arrival_time=self._prepared.arrived,
            queued_ts=times.queued,
            scheduled_ts=times.scheduled,
            first_token_ts=times.first_token,
            last_token_ts=times.last_token,
            first_token_latency=max(times.first_token - times.arrived, 0.0) if times.first_token else 0.0,
        )


class _Gathered:
    """One of the n answers."""

    def __init__(self, index: int, flat: bool) -> None:
        self._index = index
        self._text: list[str] = []
        self._logprobs = gathered((), flat=flat)
        self.tokens: list[int] = []
        self.sum = 0.0
        self.finish: str | None = None
        self.reason: int | str | None = None

    def add(self, chunk: Chunk) -> None:
        if chunk.text:
            self._text.append(chunk.text)
        self.tokens += chunk.token_ids
        if chunk.logprobs:
            self._logprobs.extend(chunk.logprobs)
            self.sum += cumulative(chunk.logprobs)
        self.finish, self.reason = chunk.finish_reason, chunk.stop_reason

    def whole(self, scores: bool) -> CompletionOutput:
        self._text = ["".join(self._text)]
        logprobs: SampleLogprobs | None = self._logprobs[:] if scores else None
        return CompletionOutput(
            self._index,
            self._text[0],
            list(self.tokens),
            cumulative_logprob=self.sum if scores else None,
            logprobs=logprobs,
            finish_reason=self.finish,
            stop_reason=self.reason,
        )


def _delta(chunk: Chunk, row: _Gathered, scores: bool, flat: bool) -> CompletionOutput:
    return CompletionOutput(
        chunk.index,
        chunk.text,
        list(chunk.token_ids),
        cumulative_logprob=row.sum if scores else None,
        logprobs=gathered(chunk.logprobs or (), flat=flat) if scores else None,
        finish_reason=chunk.finish_reason,
        stop_reason=chunk.stop_reason,
    )
