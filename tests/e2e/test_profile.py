"""A profiler's window in a running server: opened and closed over HTTP, and what it leaves can be opened."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from octavo.cli.bench import serve as bench
from tests.serving import Server, serve


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces")


@pytest.fixture(scope="module")
def profiled(traces: Path) -> Iterator[Server]:
    with serve("--profiler-dir", str(traces), "--max-model-len", "256") as running:
        yield running


def events(trace: Path) -> list[dict[str, Any]]:
    return list(json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"])


def test_a_window_around_a_request(profiled: Server, traces: Path) -> None:
    with httpx.Client(base_url=profiled.url, timeout=120) as http:
        early = http.post("/stop_profile")
        assert early.status_code == 400 and "start one first" in early.text
        assert http.post("/start_profile").json() == {"status": "recording"}
        asked = {"model": "default", "prompt": "Once", "max_tokens": 4}
        asked["model"] = http.get("/v1/models").json()["data"][0]["id"]
        assert http.post("/v1/completions", json=asked).status_code == 200
        answer = http.post("/stop_profile").json()
    assert answer["status"] == "written" and "/" not in answer["file"]
    assert events(traces / answer["file"])


def test_a_benchmark_opens_one(profiled: Server, traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--num-prompts", "2", "--random-input-len", "8", "--random-output-len", "4"]
    bench.run(["--url", profiled.url, *words, "--profile"])
    found = json.loads(capsys.readouterr().out)
    assert found["completed"] == 2 and found["output_tokens_per_s"] > 0
    assert events(traces / found["profile"])
