"""The metrics page, the log, and what they are made from."""

from __future__ import annotations

import io
import json
import logging

import pytest
from prometheus_client.parser import text_string_to_metric_families

from octavo.config.engine import EngineConfig
from octavo.config.observe import ObserveConfig
from octavo.core.events import CoreStats
from octavo.observe.histogram import Histogram, decades
from octavo.observe.log import configure, request_id
from octavo.observe.meter import Growing, Meter
from octavo.observe.ticker import Ticker
from tests.server.asgi import ask
from tests.server.fake_engine import MODEL


async def scrape(house) -> dict[str, float]:
    reply = await ask(house.app, "GET", "/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(reply.content.decode()):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k not in ("model_name", "engine")}
            values[sample.name + "".join(f"{{{k}={v}}}" for k, v in sorted(labels.items()))] = sample.value
    return values


@pytest.mark.parametrize("prefix", ["octavo:", "vllm:"])
async def test_requests_are_counted(house, prefix):
    body = {"model": MODEL, "prompt": [7] * 20, "n": 2, "temperature": 1.0, "max_tokens": 5}
    usage = (await ask(house.app, "POST", "/v1/completions", body)).json()["usage"]
    house.engine.stats = CoreStats(
        running=3, waiting=4, blocks_total=10, blocks_used=5, prefix_queries=20, prefix_hits=16, preemptions=2
    )
    got = await scrape(house)
    expected = {
        "num_requests_running": 3,
        "num_requests_waiting": 4,
        "kv_cache_usage_perc": 0.5,
        "prefix_cache_queries_total": 20,
        "prefix_cache_hits_total": 16,
        "num_preemptions_total": 2,
        "prompt_tokens_total": usage["prompt_tokens"],
        "prompt_tokens_cached_total": usage["prompt_tokens_details"]["cached_tokens"],
        "generation_tokens_total": usage["completion_tokens"],
        "request_success_total{finished_reason=length}": 2,
        "request_success_total{finished_reason=stop}": 0,
        "time_to_first_token_seconds_count": 1,
        "inter_token_latency_seconds_count": 8,
        "request_time_per_output_token_seconds_count": 2,
        "e2e_request_latency_seconds_count": 2,
        "request_queue_time_seconds_sum": 1.0,  # two rows of 0.5 s
        "request_prefill_time_seconds_sum": 1.0,
        "request_decode_time_seconds_sum": 2.0,
        "request_inference_time_seconds_sum": 3.0,
        "request_prompt_tokens_sum": 20,
        "request_generation_tokens_sum": 10,
        "request_params_max_tokens_sum": 5,
        "request_params_n_bucket{le=2.0}": 1,
    }
    assert {name: got[prefix + name] for name in expected} == expected
    info = [name for name in got if name.startswith(f"{prefix}cache_config_info")]
    assert len(info) == 1 and "{block_size=16}" in info[0]


@pytest.mark.parametrize("prefix", ["octavo:", "vllm:"])
async def test_where_the_time_of_steps_goes(house, prefix):
    house.engine.stats = CoreStats(
        steps=7, host_s=0.5, forward_s=0.25, sample_s=0.125, device_s=4.0, idle_s=0.0625
    )
    got = await scrape(house)
    found = {name: got[f"{prefix}step_{name}_seconds_total"] for name in ("host", "launch", "device", "idle")}
    assert found == {"host": 0.5, "launch": 0.375, "device": 4.0, "idle": 0.0625}
    assert got[f"{prefix}engine_steps_total"] == 7


async def test_two_apps_do_not_share_numbers(house, open_house):
    await ask(house.app, "POST", "/v1/completions", {"model": MODEL, "prompt": "hello"})
    assert (await scrape(house))["octavo:prompt_tokens_total"] == 1
    assert (await scrape(open_house()))["octavo:prompt_tokens_total"] == 0


def test_histogram():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert histogram.buckets() == [("1.0", 2), ("2.0", 3), ("+Inf", 4)]
    assert histogram.total == 12.0
    assert decades(30) == (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
    assert decades(1) == (1.0,)


def test_counters_never_fall_when_a_core_is_started_again():
    growing = Growing()
    assert growing.read(CoreStats(steps=10, prefix_hits=4))["steps"] == 10
    assert growing.read(CoreStats(steps=2))["steps"] == 12
    assert growing.read(CoreStats(steps=5, prefix_hits=1))["prefix_hits"] == 5
    assert growing.read(CoreStats(steps=1))["steps"] == 16


def test_the_line_of_statistics():
    now = [0.0]
    meter = Meter(100, clock=lambda: now[0])
    stats = [CoreStats(blocks_total=10)]
    ticker = Ticker(meter, lambda: stats[0])
    now[0] = 10.0
    assert ticker.line() is None  # nothing happened
    meter.begin(50, 5, 1, 9.0).tokens(0, 5)
    stats[0] = CoreStats(
        running=1, waiting=2, blocks_total=10, blocks_used=1, prefix_queries=4, prefix_hits=1
    )
    now[0] = 20.0
    assert ticker.line() == (
        "1 running, 2 waiting | prompt 5.0 tok/s, generation 0.5 tok/s | KV 10.0% used, prefix hits 25.0%"
    )


@pytest.fixture
def logged():
    """Configures logging into a buffer, and puts it back afterwards."""
    loggers = [logging.getLogger(name) for name in ("octavo", "uvicorn", "uvicorn.error", "uvicorn.access")]
    before = [(one, one.handlers, one.propagate, one.level) for one in loggers]
    out = io.StringIO()

    def start(**options: object) -> io.StringIO:
        configure(ObserveConfig(**options), out)
        return out

    yield start
    for one, handlers, propagate, level in before:
        one.handlers, one.propagate, one.level = handlers, propagate, level


def test_logs_for_machines(logged):
    out = logged(log_format="json")
    token = request_id.set("r-1")
    logging.getLogger("octavo.x").info("hello %s", "wörld", extra={"data": {"a": 1}})
    request_id.reset(token)
    try:
        raise ValueError("odd")
    except ValueError:
        logging.getLogger("octavo.x").exception("failed")
    first, second = map(json.loads, out.getvalue().splitlines())
    assert first["message"] == "hello wörld" and first["level"] == "info" and first["logger"] == "octavo.x"
    assert first["request_id"] == "r-1" and first["data"] == {"a": 1} and first["time"].endswith("+00:00")
    assert "ValueError: odd" in second["trace"] and "request_id" not in second


def test_logs_for_people(logged):
    out = logged(log_level="warning")
    logging.getLogger("octavo.x").info("quiet")
    logging.getLogger("octavo.x").warning("loud", extra={"request_id": "r-2"})
    (line,) = out.getvalue().splitlines()
    assert line.endswith("WARNING loud [r-2]") and "\x1b" not in line


def test_access_lines_can_be_switched_off(logged):
    out = logged(disable_uvicorn_access_log=True)
    logging.getLogger("uvicorn.access").info("GET /")
    logging.getLogger("uvicorn.error").error("bad")
    assert out.getvalue().splitlines()[0].endswith("bad")


async def test_prompts_are_never_logged(open_house, logged):
    house = open_house(config=EngineConfig(observe=ObserveConfig(enable_log_requests=True)))
    out = logged(log_level="debug", log_format="json")
    for path, body in (
        ("/v1/completions", {"model": MODEL, "prompt": "topsecret", "stop": ["topsecret"], "max_tokens": 7}),
        ("/v1/completions", {"model": MODEL, "prompt": "topsecret", "n": -1}),
        ("/v1/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": "topsecret"}]}),
    ):
        await ask(house.app, "POST", path, body)
    assert "topsecret" not in out.getvalue()
    assert "9 prompt tokens, n=1" in out.getvalue() and "max_tokens=7" in out.getvalue()
