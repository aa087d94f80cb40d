"""Errors that are no field's: content types, routes, and what nobody expected. Fields are in tests/bad."""

from __future__ import annotations

from tests.server.asgi import ask
from tests.server.fake_engine import MODEL

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
GOOD = {"model": MODEL, "prompt": "hello"}


async def test_content_type(house):
    reply = await ask(house.app, "POST", TEXT, GOOD, headers={"content-type": "text/plain"})
    assert reply.status == 400 and reply.error["param"] == "Content-Type"
    assert all(word in reply.error["message"] for word in ("text/plain", "application/json"))
    for fine in ("application/json; charset=utf-8", "application/vnd.api+json", "APPLICATION/JSON"):
        assert (await ask(house.app, "POST", TEXT, GOOD, headers={"content-type": fine})).status == 200


async def test_unknown_routes_and_methods_have_the_same_shape(house):
    for method, path, status in (("GET", "/nothing", 404), ("GET", CHAT, 405), ("DELETE", "/health", 405)):
        reply = await ask(house.app, method, path)
        assert reply.status == status and reply.error["code"] == status
    assert (await ask(house.app, "GET", "/v1/models/nobody")).error["param"] == "model"


async def test_an_unexpected_error_tells_nothing(house, monkeypatch, caplog):
    def explode(*args: object, **more: object) -> None:
        raise RuntimeError("secret <object at 0x7f00>")

    monkeypatch.setattr(house.builder, "build", explode)
    reply = await ask(house.app, "POST", TEXT, GOOD)
    assert (reply.status, reply.error["message"]) == (500, "internal error")
    assert reply.headers["x-request-id"]
    assert "secret" in caplog.text  # the log has the trace
    assert house.service.gate.open == 0
