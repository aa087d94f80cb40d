"""Who may ask: keys on every route, tenants, CORS, request ids."""

from __future__ import annotations

import pytest

from octavo.config.engine import EngineConfig
from octavo.config.observe import ObserveConfig
from octavo.config.serve import ServeConfig
from octavo.server.app import ROUTES
from tests.server.asgi import ask
from tests.server.fake_engine import MODEL

KEYS = ("first-key", "second-key")
GUARDED = [
    *((entry.method, entry.path.replace("{model:path}", MODEL)) for entry in ROUTES),
    ("GET", "/docs"),
    ("GET", "/redoc"),
    ("GET", "/openapi.json"),
    ("GET", "/nothing"),
    ("POST", "/health"),
    ("GET", "/health/"),
    ("GET", "//health"),
    ("GET", "/v1/../health"),
    ("HEAD", "/health"),
]
TEXT = {"model": MODEL, "prompt": "hello"}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def guarded(open_house):
    return open_house(config=EngineConfig(serve=ServeConfig(api_key=KEYS)))


@pytest.mark.parametrize("method,path", [pair for pair in GUARDED if pair != ("GET", "/health")])
async def test_every_route_wants_a_key(guarded, method, path):
    for headers in (
        {},
        bearer("wrong"),
        bearer(""),
        {"Authorization": KEYS[0]},
        {"Authorization": "Basic first-key"},
    ):
        reply = await ask(guarded.app, method, path, {}, headers=headers)
        assert reply.status == 401
        if method != "HEAD":
            kind = "authentication_error" if path.startswith("/v1/messages") else "AuthenticationError"
            assert reply.error["type"] == kind and reply.headers["www-authenticate"] == "Bearer"
    for key in KEYS:
        assert (await ask(guarded.app, method, path, {}, headers=bearer(key))).status != 401


async def test_only_a_bare_get_of_health_is_open(guarded):
    assert (await ask(guarded.app, "GET", "/health")).status == 200
    assert (await ask(guarded.app, "GET", "/health", query="full=1")).status == 401


async def test_without_keys_everything_is_open(house):
    for method, path in GUARDED:
        assert (await ask(house.app, method, path, {})).status != 401


async def test_odd_keys_are_only_wrong(guarded):
    for key in ("\xff\xfe", "k" * 100_000, "first-key extra", "\x00"):
        assert (await ask(guarded.app, "GET", "/v1/models", headers=bearer(key))).status == 401
    assert (
        await ask(guarded.app, "GET", "/v1/models", headers={"Authorization": "bearer first-key"})
    ).status == 200


async def test_tenants_do_not_share_prefixes(guarded):
    for key in (*KEYS, KEYS[0]):
        await ask(guarded.app, "POST", "/v1/completions", TEXT, headers=bearer(key))
    await ask(guarded.app, "POST", "/v1/completions", {**TEXT, "cache_salt": "x"}, headers=bearer(KEYS[0]))
    first, second, again, salted = (one.salt for one in guarded.engine.submitted)
    assert first == again and len({first, second, salted}) == 3
    assert all(key not in salt for key in KEYS for salt in (first, second, salted))  # it names no key


async def test_keys_show_nowhere(guarded, caplog):
    caplog.set_level("DEBUG")
    for path in ("/metrics", "/openapi.json", "/docs", "/version", "/v1/models"):
        content = (await ask(guarded.app, "GET", path, headers=bearer(KEYS[0]))).content
        assert all(key.encode() not in content for key in KEYS)
    assert all(key not in caplog.text for key in KEYS)


async def test_cors(guarded):
    asked = {"Origin": "http://a.example", "Access-Control-Request-Method": "POST"}
    preflight = await ask(guarded.app, "OPTIONS", "/v1/chat/completions", headers=asked)
    assert preflight.status == 200  # without a key: browsers send none
    assert preflight.headers["access-control-allow-origin"] == "*"
    refused = await ask(guarded.app, "GET", "/v1/models", headers={"Origin": "http://a.example"})
    assert (
        refused.status == 401 and refused.headers["access-control-allow-origin"] == "*"
    )  # readable by the page


async def test_cors_can_be_narrow(open_house):
    house = open_house(config=EngineConfig(serve=ServeConfig(allowed_origins=("http://a.example",))))
    for origin, wanted in (("http://a.example", "http://a.example"), ("http://b.example", None)):
        reply = await ask(house.app, "GET", "/health", headers={"Origin": origin})
        assert reply.headers.get("access-control-allow-origin") == wanted


async def test_request_ids(house, open_house):
    assert (await ask(house.app, "GET", "/health", headers={"X-Request-Id": "a.b-1"})).headers[
        "x-request-id"
    ] == "a.b-1"
    for odd in ("", "x" * 200, "a b", "a\nb", "<script>"):
        given = (await ask(house.app, "GET", "/health", headers={"X-Request-Id": odd})).headers[
            "x-request-id"
        ]
        assert len(given) == 32 and given != odd
    quiet = open_house(config=EngineConfig(serve=ServeConfig(enable_request_id_headers=False)))
    assert "x-request-id" not in (await ask(quiet.app, "GET", "/health")).headers


async def test_docs_can_be_switched_off(open_house):
    house = open_house(config=EngineConfig(serve=ServeConfig(disable_fastapi_docs=True)))
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert (await ask(house.app, "GET", path)).status == 404


async def test_openapi_has_every_field(guarded):
    document = (await ask(guarded.app, "GET", "/openapi.json", headers=bearer(KEYS[0]))).json()
    assert document["security"] == [{"bearer": []}, {"key": []}]
    for entry in ROUTES:
        operation = document["paths"][entry.path.replace(":path}", "}")][entry.method.lower()]
        if entry.operation.request is not None:
            name = entry.operation.request.__name__
            ref = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
            assert ref.endswith(f"/{name}")
            fields = document["components"]["schemas"][name]["properties"]
            assert set(fields) == set(entry.operation.request.__struct_fields__)
        if entry.operation.form is not None:
            form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
            assert form["properties"]["file"]["format"] == "binary" and "purpose" in form["required"]
        if entry.operation.query is not None:
            named = {one["name"] for one in operation["parameters"] if one["in"] == "query"}
            assert named == set(entry.operation.query.__struct_fields__)


@pytest.mark.parametrize("path", ["/start_profile", "/stop_profile"])
async def test_profiling_is_off_unless_a_folder_is_given(open_house, path):
    reply = await ask(open_house().app, "POST", path)
    assert reply.status == 400 and b"--profiler-dir" in reply.content


async def test_a_profile_goes_into_the_servers_own_folder_which_is_not_told(open_house):
    app = open_house(config=EngineConfig(observe=ObserveConfig(profiler_dir="/traces"))).app
    assert (await ask(app, "POST", "/start_profile")).status == 200
    reply = await ask(app, "POST", "/stop_profile")
    assert reply.status == 200 and b"/traces" not in reply.content
