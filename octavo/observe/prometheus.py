"""The /metrics page: one registry per app, every metric as octavo:* and, under vLLM's name, as vllm:*.

Reads a Meter and the core's stats when it is scraped; owns no numbers of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from octavo.core.events import CoreStats
from octavo.observe.meter import Growing, Meter

__all__ = ["CONTENT_TYPE_LATEST", "Exposition"]

_PREFIXES = ("octavo:", "vllm:")
_REASONS = ("stop", "length", "abort", "error", "repetition")
_HELP = {
    "num_requests_running": "requests being computed",
    "num_requests_waiting": "requests waiting for their turn",
    "kv_cache_usage_perc": "share of KV blocks held by requests, 0 to 1",
    "prefix_cache_queries": "prompt tokens looked up in the prefix cache",
    "prefix_cache_hits": "prompt tokens found in the prefix cache",
    "num_preemptions": "times a running request gave its blocks back",
    "prompt_tokens": "prompt tokens received",
    "prompt_tokens_cached": "prompt tokens taken from the prefix cache",
    "generation_tokens": "tokens generated",
    "engine_steps": "steps executed",
    "step_host_seconds": "time spent planning steps and taking in results",
    "step_launch_seconds": "time in the runner: the work itself on a CPU, its launches on a GPU",
    "step_device_seconds": "time a GPU spent on steps",
    "step_idle_seconds": "time a GPU waited for the next step while requests were running",
    "engine_restarts": "times the engine process was started again",
    "structured_output_rows": "rows of steps that were sampled under a grammar",
    "structured_output_forced_tokens": "tokens without a choice, computed without a step of their own",
    "spec_decode_num_draft_tokens": "draft tokens proposed",
    "spec_decode_num_accepted_tokens": "draft tokens accepted",
    "time_to_first_token_seconds": "from arrival to the first token",
    "inter_token_latency_seconds": "between tokens of one request",
    "request_time_per_output_token_seconds": "mean time per token after the first, by request",
    "e2e_request_latency_seconds": "from arrival to the end",
    "request_queue_time_seconds": "from the queue to the first step",
    "request_inference_time_seconds": "from the first step to the last token",
    "request_prefill_time_seconds": "from the first step to the first token",
    "request_decode_time_seconds": "from the first token to the last",
    "request_prompt_tokens": "prompt tokens by request",
    "request_generation_tokens": "generated tokens by request",
    "request_params_max_tokens": "max_tokens by request",
    "request_params_n": "n by request",
}


class Exposition(Collector):
    """Renders the page. `stats` and `restarts` are asked at each scrape."""

    def __init__(
        self,
        meter: Meter,
        stats: Callable[[], CoreStats],
        *,
        model_name: str,
        cache_info: Mapping[str, str],
        restarts: Callable[[], int] = lambda: 0,
    ) -> None:
        self._meter = meter
        self._stats = stats
        self._restarts = restarts
        self._labels = {"model_name": model_name, "engine": "0"}
        self._cache_info = {**cache_info, "engine": "0"}
        self._growing = Growing()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def render(self) -> bytes:
        """The page in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        for prefix in _PREFIXES:
            yield from self._gauges(prefix, stats)
            yield from self._counters(prefix, stats)
            yield from self._histograms(prefix)

    def _gauges(self, prefix: str, stats: CoreStats) -> Iterator[Metric]:
        values = {
            "num_requests_running": stats.running,
            "num_requests_waiting": stats.waiting,
            "kv_cache_usage_perc": stats.blocks_used / max(1, stats.blocks_total),
        }
        for name, value in values.items():
            family = GaugeMetricFamily(prefix + name, _HELP[name], labels=list(self._labels))
            family.add_metric(list(self._labels.values()), value)
            yield family
        info = GaugeMetricFamily(
            prefix + "cache_config_info", "settings of the KV cache", labels=list(self._cache_info)
        )
        info.add_metric(list(self._cache_info.values()), 1)
        yield info

    def _counters(self, prefix: str, stats: CoreStats) -> Iterator[Metric]:
        core, meter = self._growing.read(stats), self._meter
        values = {
            "prefix_cache_queries": core["prefix_queries"],
            "prefix_cache_hits": core["prefix_hits"],
            "num_preemptions": core["preemptions"],
            "engine_steps": core["steps"],
            "step_host_seconds": core["host_s"],
            "step_launch_seconds": core["forward_s"] + core["sample_s"],
            "step_device_seconds": core["device_s"],
            "step_idle_seconds": core["idle_s"],
            "structured_output_rows": core["masked"],
            "structured_output_forced_tokens": core["jumped"],
            "spec_decode_num_draft_tokens": core["drafts"],
            "spec_decode_num_accepted_tokens": core["accepted"],
            "prompt_tokens": meter.prompt_tokens,
            "prompt_tokens_cached": meter.cached_tokens,
            "generation_tokens": meter.generated_tokens,
            "engine_restarts": self._restarts(),
        }
        for name, value in values.items():
            family = CounterMetricFamily(prefix + name, _HELP[name], labels=list(self._labels))
            family.add_metric(list(self._labels.values()), value)
            yield family
        ended = CounterMetricFamily(
            prefix + "request_success", "requests ended, by reason", labels=[*self._labels, "finished_reason"]
        )
        for reason in _REASONS:
            ended.add_metric([*self._labels.values(), reason], meter.finished[reason])
        yield ended

    def _histograms(self, prefix: str) -> Iterator[Metric]:
        for name, histogram in self._meter.histograms.items():
            family = HistogramMetricFamily(prefix + name, _HELP[name], labels=list(self._labels))
            family.add_metric(list(self._labels.values()), histogram.buckets(), histogram.total)
            yield family
