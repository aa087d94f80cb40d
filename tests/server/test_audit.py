"""The audit log: who did what, and never what was said."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import pytest

from octavo.config.engine import EngineConfig
from octavo.config.serve import ServeConfig
from octavo.core.errors import UserError
from octavo.server.doors import check_doors
from octavo.server.middleware.audit import AuditLog
from tests.server.asgi import Call, ask
from tests.server.fake_engine import MODEL

PATH = "/v1/completions"
SECRET = "hello from somebody who trusts us"
TEXT = {"model": MODEL, "prompt": SECRET, "max_tokens": 5}


@pytest.fixture
def log(tmp_path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def audited(open_house, log):
    return open_house(config=EngineConfig(serve=ServeConfig(api_key=("the-key",), audit_log=str(log))))


def lines(log: Path) -> list[dict]:
    return [json.loads(line) for line in log.read_text().splitlines()]


async def test_a_line_says_who_what_and_how_much(audited, log):
    headers = {"Authorization": "Bearer the-key", "X-Request-Id": "r1"}
    began = time.monotonic()
    usage = (await ask(audited.app, "POST", PATH, TEXT, headers=headers, query="a=b")).json()["usage"]
    took = time.monotonic() - began
    (line,) = lines(log)
    assert line["key"].startswith("key-") and line["client"] == "127.0.0.1" and line["request_id"] == "r1"
    assert (line["method"], line["path"], line["model"]) == ("POST", PATH, MODEL)
    assert (line["status"], line["complete"]) == (200, True)
    assert 0 <= line["seconds"] <= took + 0.001, "rounded"
    assert line["prompt_tokens"] == usage["prompt_tokens"]
    assert line["completion_tokens"] == usage["completion_tokens"] == 5
    assert line["time"].endswith("+00:00")


async def test_those_turned_away_are_noted_too(audited, log):
    await ask(audited.app, "POST", PATH, TEXT)
    await ask(audited.app, "POST", PATH, TEXT, headers={"Authorization": "Bearer wrong-key"})
    await ask(audited.app, "GET", "/" + "x" * 5000, headers={"Authorization": "Bearer the-key"})
    assert [(line["key"], line["status"]) for line in lines(log)][:2] == [(None, 401)] * 2
    assert lines(log)[2]["status"] == 404 and len(lines(log)[2]["path"]) == 256


async def test_a_stream_is_noted_when_it_ends(audited, log):
    audited.engine.hold = 2
    headers = {"Authorization": "Bearer the-key"}
    call = Call(audited.app, "POST", PATH, {**TEXT, "stream": True}, headers=headers)
    await call.started()
    while len(audited.engine.submitted) < 1:
        await call._outbox.get()
    assert lines(log) == []
    call.leave()
    await call.ended()
    (line,) = lines(log)
    assert (line["status"], line["complete"]) == (200, False) and line["prompt_tokens"] > 0


async def test_neither_texts_nor_keys(audited, log):
    for key in ("the-key", "wrong-key"):
        await ask(audited.app, "POST", PATH, TEXT, headers={"Authorization": f"Bearer {key}"})
    written = log.read_text()
    assert SECRET not in written and "the-key" not in written and "wrong-key" not in written
    assert stat.S_IMODE(os.stat(log).st_mode) == 0o600


async def test_bodies_when_asked_for(open_house, log):
    house = open_house(config=EngineConfig(serve=ServeConfig(audit_log=str(log), audit_bodies=True)))
    await ask(house.app, "POST", PATH, TEXT)
    await ask(house.app, "POST", PATH, raw=b"\xff" * 100_000)
    first, second = lines(log)
    assert json.loads(first["body"]) == TEXT and len(second["body"]) == 64 << 10


async def test_a_request_cannot_write_lines_of_its_own(audited, log):
    await ask(audited.app, "GET", '/a"\n{"key": "root"}')
    assert len(lines(log)) == 1


def test_a_log_that_cannot_be_written(tmp_path):
    for path in (tmp_path, tmp_path / "none" / "log"):
        with pytest.raises(UserError) as caught:
            check_doors(ServeConfig(audit_log=str(path)))
        assert caught.value.field == "audit_log"
    with pytest.raises(UserError, match="audit_bodies needs"):
        check_doors(ServeConfig(audit_bodies=True))


def test_a_full_disk_stops_nobody(caplog, monkeypatch, log):
    audit = AuditLog(log)

    def full(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    audit.write({"a": 1})
    monkeypatch.undo()
    audit.close()
    assert "No space left" in caplog.text
