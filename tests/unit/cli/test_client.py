"""The terminal clients and the serving benchmark against a canned server."""

import io
import json

import pytest

from octavo.cli import chat, complete
from octavo.cli.bench import prompts, record, serve, startup
from octavo.cli.client import Client, base, event_of
from octavo.core.errors import Fault, Overloaded, UserError
from tests.unit.web import serving

STREAM = {"Content-Type": "text/event-stream"}


def events(*objects) -> bytes:
    lines = [f"data: {json.dumps(one)}\n\n" for one in objects]
    return "".join([": waiting\n\n", *lines, "data: [DONE]\n\n"]).encode()


@pytest.fixture
def site(monkeypatch):
    monkeypatch.delenv("OCTAVO_API_KEY", raising=False)
    with serving() as site:
        site.pages["/v1/models"] = json.dumps({"data": [{"id": "tiny"}]}).encode()
        said = [{"choices": [{"delta": {"content": text}}]} for text in ("Par", "is", None)]
        usage = {"choices": [], "usage": {"completion_tokens": 3}}
        site.pages["/v1/chat/completions"] = (200, STREAM, events(*said, usage))
        wrote = [{"choices": [{"text": text}]} for text in (" Par", "is", ".")]
        site.pages["/v1/completions"] = (200, STREAM, events(*wrote, usage))
        site.pages["/tokenize"] = json.dumps({"tokens": list(range(100, 150))}).encode()
        yield site


def test_chat_quick(site, capsys):
    chat.run(["--url", site.url + "/v1", "-q", "capital?", "--system-prompt", "Be brief", "--api-key", "k"])
    assert capsys.readouterr().out == "Paris\n"
    (body,) = site.posted
    assert body["model"] == "tiny" and body["stream"] is True
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert site.keys == ["Bearer k"]


def test_chat_remembers_the_conversation(site, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\ntwo\n"))
    chat.run(
        ["--url", site.url, "--model-name", "other", "--stats", "--max-tokens", "9", "--temperature", "0"]
    )
    shown = capsys.readouterr()
    assert shown.out == "Paris\nParis\n" and "[3 tokens" in shown.err
    assert [m["content"] for m in site.posted[1]["messages"]] == ["one", "Paris", "two"]
    assert site.posted[1]["max_tokens"] == 9 and site.posted[1]["temperature"] == 0
    assert site.posted[1]["model"] == "other"


def test_complete(site, capsys, monkeypatch):
    monkeypatch.setenv("OCTAVO_API_KEY", "env")
    complete.run(["--url", site.url, "-q", "The capital is", "--max-tokens", "5"])
    assert capsys.readouterr().out == " Paris.\n"
    assert site.posted[0]["prompt"] == "The capital is" and site.posted[0]["max_tokens"] == 5
    assert site.keys == ["Bearer env"]


@pytest.mark.parametrize(
    "status, kind, hint",
    [
        (401, UserError, "--api-key"),
        (404, UserError, "/v1/models"),
        (400, UserError, ""),
        (503, Overloaded, "try again"),
        (500, Fault, ""),
    ],
)
def test_a_refusal_is_typed(site, status, kind, hint):
    page = json.dumps({"error": {"message": "because"}}).encode()
    site.pages["/v1/completions"] = (status, {}, page)
    with Client(site.url) as client, pytest.raises(kind, match="because") as caught:
        list(client.stream("/completions", {}))
    assert hint in caught.value.hint


def test_a_server_of_another_kind(site):
    site.pages["/v1/models"] = b"<html>"
    with Client(site.url) as client, pytest.raises(Fault, match="not an OpenAI"):
        client.model(None)


def test_addresses():
    assert base("localhost:1") == "http://localhost:1/v1"
    assert base("https://x/v1/") == "https://x/v1"
    assert base("http://x/prefix/v1") == "http://x/prefix/v1"


def test_events():
    assert event_of(": comment") is None and event_of("") is None and event_of("data: [DONE]") is None
    assert event_of('data:{"a":1}') == {"a": 1}
    with pytest.raises(Fault, match="broke"):
        event_of('data: {"error": {"message": "broke"}}')


@pytest.mark.parametrize("load", [["--max-concurrency", "2"], ["--request-rate", "500"], []])
def test_bench_serve_counts_and_measures(site, load, capsys):
    serve.run(["--url", site.url, "--num-prompts", "7", "--random-input-len", "20", *load])
    found = json.loads(capsys.readouterr().out)
    assert found["benchmark"] == "serve" and found["completed"] == 7 and found["failed"] == 0
    assert found["model"] == "tiny" and found["command"] and found["python"]
    assert {"mean", "p50", "p99", "min", "max"} <= set(found["ttft_ms"])
    assert 0 <= found["tpot_ms"]["min"] <= found["tpot_ms"]["p50"] <= found["tpot_ms"]["max"]
    bodies = site.posted[1:]  # the first asks for tokens
    assert len(bodies) == 7 + 2
    assert all(len(body["prompt"]) == 20 and set(body["prompt"]) <= set(range(100, 150)) for body in bodies)
    assert len({tuple(body["prompt"]) for body in bodies}) == 9


def test_bench_serve_profiles_other_requests_first(site, capsys):
    site.pages["/start_profile"] = json.dumps({"status": "recording"}).encode()
    site.pages["/stop_profile"] = json.dumps({"status": "written", "file": "trace.json.gz"}).encode()
    serve.run(["--url", site.url, "--num-prompts", "3", "--num-warmups", "0", "--profile"])
    found = json.loads(capsys.readouterr().out)
    assert found["profile"] == "trace.json.gz" and found["completed"] == 3
    asked = [tuple(body["prompt"]) for body in site.posted if body and isinstance(body["prompt"], list)]
    assert len(asked) == len(set(asked)) == 6


def test_bench_serve_says_that_a_server_does_not_profile(site):
    refused = {"error": {"message": "profiling is off: start the server with --profiler-dir FOLDER"}}
    site.pages["/start_profile"] = (400, {}, json.dumps(refused).encode())
    with pytest.raises(UserError, match="--profiler-dir"):
        serve.run(["--url", site.url, "--num-prompts", "3", "--profile"])


def test_bench_serve_reports_failures(site, tmp_path, capsys):
    site.pages["/v1/completions"] = (503, {}, json.dumps({"error": {"message": "full"}}).encode())
    target = tmp_path / "sub" / "out.json"
    serve.run(["--url", site.url, "--num-prompts", "3", "--output-json", str(target)])
    found = json.loads(target.read_text())
    assert found["failed"] == 3 and found["ttft_ms"] == {} and "full" in found["errors"][0]
    assert capsys.readouterr().out == ""


def test_bench_serve_without_a_server():
    with pytest.raises(UserError, match="no server"):
        serve.run(["--url", "http://127.0.0.1:9", "--num-prompts", "1"])


def test_bench_startup_tells_why_a_server_did_not_start():
    with pytest.raises(Fault, match="does not exist"):
        startup.run(["--num-iters", "1", "--", "/nowhere/model.gguf"])


def test_random_prompts_follow_the_seed():
    made = prompts.random_prompts(3, 4, 5, range(1000))
    assert (
        made == prompts.random_prompts(3, 4, 5, range(1000)) != prompts.random_prompts(4, 4, 5, range(1000))
    )
    assert [len(prompt) for prompt in made] == [5] * 4


def test_spread():
    found = record.spread([4.0, 1.0, 3.0, 2.0], 10)
    assert found["mean"] == 25 and found["min"] == 10 and found["max"] == 40 and found["p50"] == 25
    assert record.percentile([1.0], 99) == 1.0 and record.spread([]) == {}
