"""Batches with the default model: killed half-way and taken up again, each answer is written exactly once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from octavo.core.facts import ModelFiles
from tests.serving import Server, free_port, serve

MODEL = "SmolLM2-135M-Instruct"
COMMAND = [sys.executable, "-m", "octavo.cli.main", "run-batch", "--max-model-len", "512"]


def request(n: int) -> bytes:
    url, body = "/v1/completions", {"prompt": f"{n} plus one is"}
    if n % 10 == 0:  # through the same dispatch as a live chat
        url, body = "/v1/chat/completions", {"messages": [{"role": "user", "content": f"Say {n}."}]}
    body = {"model": MODEL, "max_tokens": 3, "temperature": 0, **body}
    return json.dumps({"custom_id": f"r{n}", "method": "POST", "url": url, "body": body}).encode() + b"\n"


def wait_until(true: Callable[[], bool], process: subprocess.Popen | None = None) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert process is None or process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []


def kill(process: subprocess.Popen) -> None:
    """The front alone; its core has to notice."""
    cores = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(cores, timeout=60)
    assert not alive


def killed_and_resumed(tmp_path: Path, count: int) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b"".join(request(n) for n in range(count)))
    command = [*COMMAND, "-i", str(source), "-o", str(output)]
    slowly = [*command, "--batch-rows", str(max(2, count // 60))]  # so that there is time to kill it
    first = subprocess.Popen(slowly, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(lines(output)) >= count // 2, first)
    kill(first)
    before = lines(output)
    assert count // 2 <= len(before) < count
    with output.open("ab") as file:
        file.write(b'{"id":"batch_req_000000001_torn')  # the worst a kill can leave
    second = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert second.returncode == 0, second.stderr
    assert f"{len(before)} of {count} requests are answered already" in second.stderr
    answers = [json.loads(line) for line in lines(output)]
    assert [one["custom_id"] for one in answers] == [f"r{n}" for n in range(count)]  # the input's order
    assert all(one["response"]["status_code"] == 200 and one["error"] is None for one in answers)
    assert set(before) <= set(lines(output))  # not one was asked again
    assert len({one["id"] for one in answers}) == count
    third = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert third.returncode == 0 and f"all {count} requests are answered already" in third.stderr
    assert "warm-up" not in third.stderr  # no model was loaded for that


def test_a_killed_run_goes_on(default_model: ModelFiles, tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, 120)


@pytest.mark.slow
def test_a_killed_run_of_a_thousand_goes_on(default_model: ModelFiles, tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, 1000)


def test_bad_lines_become_error_lines(default_model: ModelFiles, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    wrong = json.loads(request(3))
    wrong["body"]["temperature"] = 9
    rows = [
        request(1),
        b"{torn\n",
        b"\n",
        b'{"custom_id": "x", "url": 5}\n',
        json.dumps(wrong).encode() + b"\n",
    ]
    rows += [request(2).replace(b"/v1/completions", b"/v1/nothing"), request(4), request(4).strip()]
    source.write_bytes(b"".join(rows))
    done = subprocess.run(
        [*COMMAND, "-i", str(source), "-o", str(output)], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert "7 requests are answered, 4 of them with an error" in done.stderr and "7/7" in done.stderr
    answers = [json.loads(line) for line in lines(output)]
    codes = [one["error"] and one["error"]["code"] for one in answers]
    assert codes == [None, "invalid_json_line", "invalid_request", None, "invalid_url", None, None]
    statuses = [one["response"] and one["response"]["status_code"] for one in answers]
    assert statuses == [200, None, None, 400, None, 200, 200]
    assert [one["custom_id"] for one in answers] == ["r1", None, "x", "r3", "r2", "r4", "r4"]
    assert answers[5]["response"]["body"]["choices"] == answers[6]["response"]["body"]["choices"]
    other = tmp_path / "other.jsonl"
    other.write_bytes(request(9))
    mixed = subprocess.run(
        [*COMMAND, "-i", str(other), "-o", str(output)], capture_output=True, text=True, timeout=60
    )
    assert mixed.returncode == 2 and "line 1" in mixed.stderr and "--overwrite" in mixed.stderr


def test_ctrl_c_stops_and_says_how_to_go_on(default_model: ModelFiles, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b"".join(request(n) for n in range(3000)))  # it cannot end by itself meanwhile
    port = free_port()
    command = [*COMMAND, "-i", str(source), "-o", str(output), "--batch-rows", "2"]
    command += ["--enable-metrics", "--port", str(port)]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(lines(output)) >= 5, first)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
        assert "octavo:" in client.get("/metrics").text and client.get("/v1/models").status_code == 404
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=60)
    count = len(lines(output))
    assert (
        first.returncode == 130
        and f"stopped: {count} of 3000 requests are answered; the same command goes on" in said
    )


def test_a_killed_server_takes_its_batches_up_again(default_model: ModelFiles, tmp_path: Path) -> None:
    """The official client before and after; the output's lines are unique and complete."""
    count, folder = 150, tmp_path / "files"
    flags = ("--files-dir", str(folder), "--max-model-len", "512", "--disable-uvicorn-access-log")
    with serve(*flags, "--batch-rows", "4") as first, connected(first) as client:
        file = client.files.create(
            file=("in.jsonl", b"".join(r for n in range(count) if b"chat" not in (r := request(n)))),
            purpose="batch",
        )
        total = file.bytes and count - count // 10
        batch = client.batches.create(
            input_file_id=file.id, endpoint="/v1/completions", completion_window="24h"
        )
        wait_until(lambda: client.batches.retrieve(batch.id).request_counts.completed >= total // 3)
        kill(first.process)
    (journal,) = (folder / "batches").glob("*.jsonl")
    before = lines(journal)
    assert total // 3 <= len(before) < total
    with serve(*flags) as second, connected(second) as client:
        wait_until(lambda: client.batches.retrieve(batch.id).status == "completed")
        after = client.batches.retrieve(batch.id)
        assert after.request_counts.completed == after.request_counts.total == total
        assert after.usage.total_tokens > 0 and after.error_file_id is None
        output = client.files.content(after.output_file_id).content.splitlines()
        names = [json.loads(line)["custom_id"] for line in output]
        assert names == [f"r{n}" for n in range(count) if n % 10]
        assert set(before) <= set(output)
        assert [one.id for one in client.batches.list()] == [batch.id]
        assert {one.id for one in client.files.list(purpose="batch")} == {file.id}
        client.files.delete(after.output_file_id)
        with pytest.raises(openai.NotFoundError):
            client.files.content(after.output_file_id)


def connected(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0, timeout=120)


def test_the_official_client_cancels(server: Server) -> None:
    with connected(server) as client:
        rows = b"".join(request(n).replace(b'"max_tokens": 3', b'"max_tokens": 400') for n in range(1, 10))
        file = client.files.create(file=("in.jsonl", rows), purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id, endpoint="/v1/completions", completion_window="24h", metadata={"a": "b"}
        )
        wait_until(lambda: client.batches.retrieve(batch.id).status == "in_progress")
        live = client.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=2)
        assert live.usage.completion_tokens == 2  # it did not wait for the batch
        assert client.batches.retrieve(batch.id).status == "in_progress"
        assert client.batches.cancel(batch.id).status == "cancelling"
        wait_until(lambda: client.batches.retrieve(batch.id).status == "cancelled")
        ended = client.batches.retrieve(batch.id)
        text = client.files.content(ended.error_file_id).text
        assert "batch_cancelled" in text and ended.metadata == {"a": "b"}
