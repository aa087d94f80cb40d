"""What is counted about requests, whoever reads it: Prometheus, the log's line, tests.

Fed by the server, chunk by chunk. Knows nothing of Prometheus' formats or of HTTP.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from octavo.core.events import CoreStats, Timeline
from octavo.observe.histogram import CHILDREN, FIRST_TOKEN, PER_TOKEN, REQUEST, Histogram, decades


class Meter:
    """Counters and histograms from the start of the server."""

    def __init__(self, max_model_len: int, clock: Callable[[], float] = time.monotonic) -> None:
        lengths = decades(max_model_len)
        self.clock = clock
        self.finished: Counter[str] = Counter()
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generated_tokens = 0
        self.histograms = {
            "time_to_first_token_seconds": Histogram(FIRST_TOKEN),
            "inter_token_latency_seconds": Histogram(PER_TOKEN),
            "request_time_per_output_token_seconds": Histogram(PER_TOKEN),
            "e2e_request_latency_seconds": Histogram(REQUEST),
            "request_queue_time_seconds": Histogram(REQUEST),
            "request_inference_time_seconds": Histogram(REQUEST),
            "request_prefill_time_seconds": Histogram(REQUEST),
            "request_decode_time_seconds": Histogram(REQUEST),
            "request_prompt_tokens": Histogram(lengths),
            "request_generation_tokens": Histogram(lengths),
            "request_params_max_tokens": Histogram(lengths),
            "request_params_n": Histogram(CHILDREN),
        }

    def observe(self, name: str, value: float) -> None:
        self.histograms[name].observe(value)

    def begin(self, prompt_tokens: int, max_tokens: int, n: int, started: float) -> RequestMeter:
        """Counts one prompt that arrived at `started`; the result counts what comes of its `n` rows."""
        self.prompt_tokens += prompt_tokens
        self.observe("request_prompt_tokens", prompt_tokens)
        self.observe("request_params_max_tokens", max_tokens)
        self.observe("request_params_n", n)
        return RequestMeter(self, started)


class RequestMeter:
    """One prompt and its rows, from arrival to the last token."""

    def __init__(self, meter: Meter, started: float) -> None:
        self._meter = meter
        self._start = started
        self._first: dict[int, float] = {}
        self._last: dict[int, float] = {}
        self._tokens: Counter[int] = Counter()

    def tokens(self, row: int, count: int) -> None:
        """`count` new tokens of a row."""
        if not count:
            return
        meter, now = self._meter, self._meter.clock()
        if row not in self._first:
            self._first[row] = now
            if len(self._first) == 1:
                meter.observe("time_to_first_token_seconds", now - self._start)
        else:
            meter.observe("inter_token_latency_seconds", (now - self._last[row]) / count)
        self._last[row] = now
        self._tokens[row] += count
        meter.generated_tokens += count

    def cached(self, count: int) -> None:
        self._meter.cached_tokens += count

    def finish(self, row: int, reason: str, timeline: Timeline | None = None) -> None:
        """A row ended."""
        meter, now, count = self._meter, self._meter.clock(), self._tokens[row]
        meter.finished[reason] += 1
        meter.observe("request_generation_tokens", count)
        meter.observe("e2e_request_latency_seconds", now - self._start)
        if count > 1:
            spent = self._last[row] - self._first[row]
            meter.observe("request_time_per_output_token_seconds", spent / (count - 1))
        if timeline is not None and timeline.scheduled and timeline.last_token:
            self._phases(timeline)

    def _phases(self, t: Timeline) -> None:
        first = t.first_token or t.last_token
        for name, start, end in (
            ("queue", t.queued, t.scheduled),
            ("prefill", t.scheduled, first),
            ("decode", first, t.last_token),
            ("inference", t.scheduled, t.last_token),
        ):
            self._meter.observe(f"request_{name}_time_seconds", max(0.0, end - start))


class Growing:
    """Counters of a core that may be started again: they never fall."""

    _NAMES = (
        "prefix_queries",
        "prefix_hits",
        "preemptions",
        "steps",
        "prompt_tokens",
        "generated_tokens",
        "drafts",
        "accepted",
        "masked",
        "jumped",
        "host_s",
        "forward_s",
        "sample_s",
        "device_s",
        "idle_s",
    )

    def __init__(self) -> None:
        self._last = CoreStats()
        self._base: dict[str, float] = dict.fromkeys(self._NAMES, 0)

    def read(self, stats: CoreStats) -> dict[str, float]:
        """All counters, of this core and of those before it."""
        now, before = _counters(stats, self._NAMES), _counters(self._last, self._NAMES)
        if any(now[name] < before[name] for name in self._NAMES):
            for name in self._NAMES:
                self._base[name] += before[name]
        self._last = stats
        return {name: self._base[name] + now[name] for name in self._NAMES}


def _counters(stats: CoreStats, names: tuple[str, ...]) -> dict[str, float]:
    return {name: getattr(stats, name) for name in names}
