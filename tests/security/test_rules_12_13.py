"""12: one builder of requests for every dialect. 13: /health tells of progress, and a request that fails
fails alone."""

from __future__ import annotations

import ast
import contextlib
import json
import signal
import time
from collections.abc import Iterator

import pytest

from tests.security.target import DIALECTS, PATIENCE, Target, refused, texts_of
from tests.serving import serve
from tests.unit.test_house import TREES, called

SHARED = [
    {"temperature": -1},
    {"temperature": 1e9},
    {"temperature": "hot"},
    {"top_p": 0},
    {"top_p": 7},
    {"model": "no-such-model"},
    {"model": None},
    {"stream": "yes"},
]


def test_rule_12_every_dialect_refuses_the_same(target: Target) -> None:
    assert len(target.dialects) >= 2
    for route in target.dialects:
        for more in SHARED:
            reply = target.post(route, {**DIALECTS[route]("hello"), **more})
            assert refused(reply), (route, more, reply.status_code)
        assert target.post(route, DIALECTS[route]("hello")).status_code == 200


@pytest.mark.this_tree
def test_rule_12_requests_are_made_in_one_place() -> None:
    makers = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if called(node).rpartition(".")[2] == "EngineRequest"
    }
    assert makers == {"octavo/front/prompt.py"}


@pytest.mark.this_tree
def test_rule_12_dialects_bring_no_limits_of_their_own() -> None:
    """Ranges of sampling fields are checked in the front; the server only translates."""
    odd = [
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if name.startswith("octavo/server/") and called(node) in ("Sampling", "SamplingParams")
    ]
    assert odd == []


FAULTS = [
    {"prompt": [10**9]},
    {"max_tokens": 10**9},
    {"structured_outputs": {"regex": "("}},
    {"structured_outputs": {"json": {"type": "no"}}},
    {"logit_bias": {"10000000": 1}},
    {"temperature": 1e300},
    {"n": 0},
    {"structured_outputs": {"regex": "a"}, "allowed_token_ids": [0]},  # leaves no token: fails at work
]


def test_rule_13_a_request_that_fails_fails_alone(target: Target) -> None:
    with target.stream() as lines:
        alone = texts_of(lines)
    with target.stream() as lines:
        first = next(line for line in lines if line.startswith("data: "))
        for more in FAULTS * 3:
            reply = target.post("/v1/completions", {"prompt": "hello", "max_tokens": 4, **more})
            assert refused(reply), (more, reply.text)
        disturbed = texts_of(iter([first, *lines]))
    assert disturbed == alone
    assert target.ask("GET", "/health").status_code == 200


def test_rule_13_clients_that_leave_hurt_nobody(target: Target) -> None:
    with target.stream() as lines:
        alone = texts_of(lines)
    with target.stream() as lines:
        first = next(line for line in lines if line.startswith("data: "))
        for _ in range(10):
            with target.stream(prompt="Something else") as other:
                next(other)
        assert texts_of(iter([first, *lines])) == alone
    assert target.ask("GET", "/health").status_code == 200


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    import psutil

    process = psutil.Process(pid)
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@pytest.mark.this_tree
def test_rule_13_health_means_that_a_step_finished_lately(default_model: object) -> None:
    """The core hangs: the front still answers, and says so. It goes on: healthy again, and nothing lost."""
    with serve("--max-model-len", "512", "--step-timeout", "1", "--dtype", "float32") as server:
        target = Target(server.url, (), server)
        assert target.model
        (core,) = server.family()[1:2]
        with target.stream(max_tokens=250) as lines:
            alone = texts_of(lines)
        with target.stream(max_tokens=250) as lines:  # it lasts until the core is stopped
            first = next(line for line in lines if line.startswith("data: "))
            with stopped(core.pid):
                deadline = time.monotonic() + PATIENCE
                while (reply := target.ask("GET", "/health")).status_code == 200:
                    assert time.monotonic() < deadline
                assert reply.status_code == 503 and "no step" in json.loads(reply.text)["error"]["message"]
            assert texts_of(iter([first, *lines])) == alone
        assert target.ask("GET", "/health").status_code == 200
        target.close()
