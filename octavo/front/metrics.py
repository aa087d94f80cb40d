"""Counters and histograms as values, in the shape of vLLM's metrics reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from octavo.core.events import CoreStats
from octavo.observe.histogram import Histogram as Counts
from octavo.observe.meter import Meter


@dataclass(frozen=True)
class Metric:
    name: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Counter(Metric):
    """Only grows."""

    value: int


@dataclass(frozen=True)
class Vector(Metric):
    """Counters by position."""

    values: list[int]


@dataclass(frozen=True)
class Gauge(Metric):
    value: float


@dataclass(frozen=True)
class Histogram(Metric):
    """`buckets` maps an upper edge to the number of values up to it."""

    count: int
    sum: float
    buckets: Mapping[str, int]


def snapshot(meter: Meter, stats: CoreStats, model_name: str) -> list[Metric]:
    """Everything that is counted, under vLLM's names."""
    labels = {"model_name": model_name, "engine": "0"}
    gauges = {
        "num_requests_running": stats.running,
        "num_requests_waiting": stats.waiting,
        "kv_cache_usage_perc": stats.blocks_used / max(1, stats.blocks_total),
    }
    counters = {
        "prefix_cache_queries": stats.prefix_queries,
        "prefix_cache_hits": stats.prefix_hits,
        "num_preemptions": stats.preemptions,
        "prompt_tokens": meter.prompt_tokens,
        "prompt_tokens_cached": meter.cached_tokens,
        "generation_tokens": meter.generated_tokens,
        "spec_decode_num_draft_tokens": stats.drafts,
        "spec_decode_num_accepted_tokens": stats.accepted,
    }
    found: list[Metric] = [Gauge(f"vllm:{name}", labels, float(value)) for name, value in gauges.items()]
    found += [Counter(f"vllm:{name}", labels, value) for name, value in counters.items()]
    found += [
        Counter("vllm:request_success", {**labels, "finished_reason": reason}, count)
        for reason, count in sorted(meter.finished.items())
    ]
    found += [_histogram(f"vllm:{name}", labels, counts) for name, counts in meter.histograms.items()]
    return found


def _histogram(name: str, labels: Mapping[str, str], counts: Counts) -> Histogram:
    buckets = {edge: int(count) for edge, count in counts.buckets()}
    return Histogram(name, labels, count=buckets["+Inf"], sum=counts.total, buckets=buckets)
