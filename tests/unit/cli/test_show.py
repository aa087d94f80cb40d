"""What a start prints, and that what it prints can be pasted."""

import io
import json
import logging
import shlex
import subprocess
import sys

import msgspec
import pytest

from octavo.cli import serve, show
from octavo.config.engine import EngineConfig
from octavo.core.facts import (
    NO_EFFECT,
    CacheGroup,
    CachePlan,
    Decision,
    MemoryRow,
    ModelFacts,
    ModelFiles,
    Ready,
)
from octavo.server.run import Serving
from tests.unit.web import serving

FILES = ModelFiles(name="tiny", root="/", weights=("w",), format="gguf", config=None, tokenizer="t")
FACTS = ModelFacts(architecture="LlamaForCausalLM", vocab_size=10, max_position=2048, num_layers=1)


def ready(*groups: CacheGroup) -> Ready:
    plan = CachePlan(
        page_bytes=1 << 20, pages=101, groups=groups or (CacheGroup("full", "full", 16),), max_rows=32
    )
    return Ready(
        cache=plan,
        facts=FACTS,
        max_model_len=2048,
        dtype="float32",
        attention="torch",
        budget=512,
        load_seconds=0.5,
    )


def found(**more):
    return show.facts(EngineConfig(), FILES, ready(), "tiny", "http://127.0.0.1:8000", 99) | more


def test_the_summary_says_how_a_cpu_keeps_weights():
    made = (Decision("weights", "Q8_0", "as asked"), Decision("weight_pages", "shared", "one copy"))
    started = msgspec.structs.replace(ready(), decisions=made)
    told = show.facts(EngineConfig(), FILES, started, "tiny", "http://127.0.0.1:8000", 99)
    assert (told["weights"], told["weight_pages"]) == ("Q8_0: as asked", "shared: one copy")
    text = show.summary(told)
    assert "Q8_0: as asked" in text and "shared: one copy" in text and "threads" not in text


def test_the_summary_says_what_a_cpu_computes_with():
    made = (Decision("kernels", "torch", "native: no C++ compiler was found"),)
    for threads, shown in (((), False), ((Decision("cpu_threads", "2", "as asked"),), True)):
        started = msgspec.structs.replace(ready(), decisions=(*made, *threads))
        text = show.summary(show.facts(EngineConfig(), FILES, started, "tiny", "http://127.0.0.1:8000", 99))
        assert ("no C++ compiler" in text) == shown


def test_the_summary_names_what_matters():
    text = show.summary(found())
    for word in ("tiny", "LlamaForCausalLM", "float32", "torch", "100 blocks = 1,600 tokens", "101 MiB", "2,048 tokens",
                 "32 requests", "512 tokens in a step", "99 requests in the queue", "http://127.0.0.1:8000/v1", "no API key"):  # fmt: skip
        assert word in text
    assert "API key needed" in show.summary(found(keyed=True))


def test_the_summary_has_the_memory_plan_row_by_row():
    rows = (MemoryRow("weights", 3 << 29, "bfloat16"), MemoryRow("KV cache", 101 << 20, "100 blocks"),
            MemoryRow("total", (3 << 29) + (101 << 20), "of 8.00 GiB allowed"))  # fmt: skip
    started = msgspec.structs.replace(ready(), memory=rows)
    told = show.facts(EngineConfig(), FILES, started, "tiny", "http://127.0.0.1:8000", 99)
    assert told["memory"][0] == {"name": "weights", "bytes": 3 << 29, "note": "bfloat16"}
    lines = [" ".join(line.split()) for line in show.summary(told).splitlines()]
    at = lines.index("memory weights 1,536.0 MiB bfloat16")
    assert lines[at + 1 : at + 3] == [
        "KV cache 101.0 MiB 100 blocks",
        "total 1,637.0 MiB of 8.00 GiB allowed",
    ]
    assert "memory" not in show.summary(found())


def test_tokens_of_mixed_layers():
    plan = ready(
        CacheGroup("a", "full", 16), CacheGroup("b", "full", 16), CacheGroup("w", "window", 16, 64)
    ).cache
    assert show.cache_tokens(plan) == 50 * 16
    assert show.cache_tokens(ready(CacheGroup("w", "window", 16, 64)).cache) == 1600


@pytest.mark.parametrize("chat", [True, False])
def test_the_printed_lines_run_as_pasted(chat, monkeypatch):
    monkeypatch.setenv("OCTAVO_API_KEY", "sk-1")
    choice = {"index": 0, "delta": {"content": "Paris"}, "text": "Paris", "finish_reason": None}
    event = {"id": "1", "object": "x", "created": 1, "model": "tiny", "choices": [choice]}
    stream = f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode()
    with serving() as site:
        for path in ("/v1/chat/completions", "/v1/completions"):
            site.pages[path] = (200, {"Content-Type": "text/event-stream"}, stream)
        text = show.examples("tiny", site.url, keyed=True, chat=chat)
        _, _, curl, _, snippet = text.split("\n", 4)
        for command in (curl, snippet):
            done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert "Paris" in done.stdout
    assert site.keys == ["Bearer sk-1"] * 2
    for body in site.posted:
        assert body["stream"] is True and body["model"] == "tiny" and body["temperature"] == 0
        assert ("messages" in body) is chat


def test_a_name_with_quotes_stays_one_word():
    text = show.examples("it's $HOME", "http://x", keyed=False, chat=True)
    curl = text.splitlines()[2]
    assert json.loads(shlex.split(curl)[-1])["model"] == "it's $HOME"
    assert "Authorization" not in text and sys.executable in text


@pytest.mark.parametrize(
    "host, keys, loud",
    [("0.0.0.0", (), True), ("::", (), True), ("192.168.1.5", (), True), ("myhost", (), True),
     ("127.0.0.1", (), False), ("::1", (), False), ("localhost", (), False), ("0.0.0.0", ("k",), False)],
)  # fmt: skip
def test_an_open_door_is_told_loudly(host, keys, loud, caplog):
    with caplog.at_level(logging.WARNING):
        serve.warn_if_open(EngineConfig.from_flat({"host": host, "api_key": keys}))
    assert bool(caplog.records) is loud
    assert not loud or "--api-key" in caplog.text


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_counts_up_in_a_terminal_only():
    for out, live in ((io.StringIO(), False), (Terminal(), True)):
        startup = show.Startup(out)
        for stage, share in [
            ("load", 0.0),
            ("load", 0.5),
            ("load", 1.0),
            ("load", 1.0),
            ("warm up", 0.0),
            ("warm up", 1.0),
        ]:
            startup(stage, share)
        text = out.getvalue()
        assert text.count("load (") == 1 and text.count("warm up (") == 1 and text.count("\n") == 2
        assert ("50%" in text) is live


def test_settings_without_effect_are_told_at_start(caplog, capsys):
    made = (Decision("enforce_eager", NO_EFFECT, "no graphs here"), Decision("dtype", "float32", "asked for"))
    shown = Serving("http://x", "m", msgspec.structs.replace(ready(), decisions=made), 9, 1.0)
    config = EngineConfig.from_flat({"seed": 7})
    with caplog.at_level(logging.INFO):
        serve.show(config, FILES, shown)
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "enforce_eager has no effect: no graphs here",
        "seed has no effect: a request without a seed draws its own",
    ]
    assert "ready" in capsys.readouterr().out


def test_the_log_has_its_form_before_the_settings_are_read():
    asked = {"log_format": "json", "port": "1", "swap_space": "4"}
    assert serve.observed(asked).log_format == "json"


def test_a_log_for_machines_hears_of_finished_stages_only():
    told, out = [], Terminal()
    startup = show.Startup(out, tell=told.append)
    for share in (0.0, 0.5, 1.0):
        startup("load", share)
    assert told == ["load (0.0 s)"] and out.getvalue() == ""
