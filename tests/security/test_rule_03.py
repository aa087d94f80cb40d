"""3: without a key nothing is told or done, on any route; keys are told to nobody."""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path

import pytest

from octavo.config.engine import EngineConfig
from octavo.config.serve import ServeConfig
from octavo.server.keys import KeyRing
from octavo.server.middleware.auth import Auth
from tests.security.target import DIALECTS, Target
from tests.server.asgi import ask
from tests.server.fake_engine import House

ROUTES = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/x"),
    *(("POST", path) for path in DIALECTS),
    *(
        ("POST", path)
        for path in ("/tokenize", "/detokenize", "/invocations", "/v1/embeddings", "/v1/rerank")
    ),
    *(("GET", path) for path in ("/metrics", "/version", "/load", "/docs", "/redoc", "/openapi.json")),
    *(("GET", path) for path in ("/server_info", "/tokenizer_info", "/v1/files", "/v1/batches", "/nothing")),
    *(
        ("POST", path)
        for path in ("/sleep", "/reset_prefix_cache", "/collective_rpc", "/v1/load_lora_adapter")
    ),
    ("GET", "/ping"),
    ("POST", "/ping"),
    ("POST", "/health"),
    ("HEAD", "/health"),
    ("GET", "/health?verbose=1"),
    ("GET", "/health/"),
    ("DELETE", "/v1/models/x"),
]
SPELLINGS = [
    b"//v1/models",
    b"/v1//models",
    b"/./v1/models",
    b"/v1/%6dodels",
    b"/V1/models",
    b"/v1/models/",
    b"/v1/models?",
    b"/health/../v1/models",
    b"/health%2f..%2fv1/models",
    b"/health;/v1/models",
    b"/v1/models#/health",
    b"/v1/models%00/health",
    b"/health%3f/../v1/models",
    b"http://127.0.0.1/v1/models",
    b"http://127.0.0.1/health/../v1/models",
]
HEADERS = [
    b"X-Original-URL: /health",
    b"X-Rewrite-URL: /health",
    b"X-Forwarded-Prefix: /health",
    b"X-Forwarded-For: 127.0.0.1",
    b"X-HTTP-Method-Override: OPTIONS",
    b"Host: localhost/health?",
    b"Authorization: Bearer ",
    b"Authorization: Bearer null",
    b"Authorization: Basic Og==",
    b"Authorization: Bearer " + b"a" * 5000,
    b"Authorization: Bearer \xff\xfe",
    b"x-api-key: ",
    b"Cookie: api_key=1",
]


@pytest.mark.parametrize("method,path", ROUTES)
@pytest.mark.parametrize("key", [None, "wrong", "null", "Bearer x"], ids=str)
def test_rule_03_every_route_wants_a_key(target: Target, method: str, path: str, key: str | None) -> None:
    assert target.keys, "give a valid key with --api-key"
    assert target.ask(method, path, {}, key=key).status_code == 401


def test_rule_03_a_valid_key_opens(target: Target) -> None:
    for key in target.keys:
        assert target.ask("GET", "/v1/models", key=key).status_code == 200


def test_rule_03_only_a_bare_health_is_open_and_says_nothing(target: Target) -> None:
    reply = target.ask("GET", "/health", key=None)
    assert reply.status_code == 200 and reply.content in (b"", b"{}")


@pytest.mark.parametrize("path", SPELLINGS)
def test_rule_03_no_spelling_of_a_path_is_let_through(target: Target, path: bytes) -> None:
    head = b"GET " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    answer = target.send(head)
    assert answer.split(b" ", 2)[1:2] in ([b"401"], [b"400"]), answer
    assert target.model.encode() not in answer


@pytest.mark.parametrize("header", HEADERS)
def test_rule_03_no_header_is_let_through(target: Target, header: bytes) -> None:
    host = b"" if header.startswith(b"Host") else b"Host: 127.0.0.1\r\n"
    answer = target.send(b"GET /v1/models HTTP/1.1\r\n" + host + header + b"\r\nConnection: close\r\n\r\n")
    assert answer.split(b" ", 2)[1:2] in ([b"401"], [b"400"]), answer
    assert target.model.encode() not in answer


def test_rule_03_keys_are_in_no_answer(target: Target) -> None:
    paths = ("/v1/models", "/metrics", "/version", "/load", "/docs", "/openapi.json", "/server_info", "/x")
    for path in paths:
        text = target.ask("GET", path).text
        assert not any(key in text for key in target.keys), path
    error = target.ask("GET", "/v1/models", key="a-wrong-key-of-mine")
    assert "a-wrong-key-of-mine" not in error.text


@pytest.mark.this_tree
async def test_rule_03_a_route_without_a_key_cannot_be_added() -> None:
    """The check stands in front of the router: whatever is in it, and whatever is added, is behind it."""
    house = House(config=EngineConfig(serve=ServeConfig(api_key=("k",))))

    async def mine(request: object) -> None:
        raise AssertionError("reached")

    house.app.add_route("/new", mine, methods=["GET", "POST"])
    house.app.mount("/below", lambda scope, receive, send: mine(scope))
    asked = 0
    for route in house.app.routes:
        for method in getattr(route, "methods", None) or ("GET", "POST"):
            path = route.path.replace("{model:path}", "tiny")
            if (method, path) != ("GET", "/health"):
                assert (await ask(house.app, method, path, {})).status == 401, (method, path)
                asked += 1
    assert asked > 20
    house.service.close()


@pytest.mark.this_tree
def test_rule_03_comparison_takes_constant_time() -> None:
    source = inspect.getsource(KeyRing.find)
    tree = ast.parse(textwrap.dedent(source))
    (loop,) = (node for node in ast.walk(tree) if isinstance(node, ast.For))
    assert "hmac.compare_digest" in ast.unparse(loop)
    assert not any(isinstance(node, ast.Return | ast.Break) for node in ast.walk(loop))  # no early end


@pytest.mark.this_tree
def test_rule_03_the_path_is_read_from_the_scope_alone() -> None:
    """Not from a URL put together out of the client's Host header."""
    source = inspect.getsource(inspect.getmodule(Auth))
    assert 'scope["path"]' in source and ".url" not in source and "raw_path" not in source


@pytest.mark.this_tree
def test_rule_03_no_process_below_the_front_and_no_log_has_a_key(target: Target) -> None:
    assert target.server is not None
    target.ask("GET", "/v1/models")
    _, *below = target.server.family()
    assert below
    for process in below:
        told = " ".join([*process.cmdline(), *process.environ().values()])
        assert not any(key in told for key in target.keys)
    log = Path(target.server.log).read_text()
    assert not any(key in log for key in target.keys)
