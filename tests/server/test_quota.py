"""What one key may do: requests at once, requests and tokens a minute."""

from __future__ import annotations

import math

import pytest

from octavo.config.engine import EngineConfig
from octavo.config.serve import ServeConfig
from octavo.server.quota import Limits, Quota
from tests.server.asgi import Call, ask
from tests.server.fake_engine import MODEL, House

TEXT = {"model": MODEL, "prompt": "hello", "max_tokens": 4}
PATH = "/v1/completions"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_requests_a_minute():
    clock = Clock()
    quota = Quota(Limits(requests_per_minute=3), clock)
    for _ in range(3):
        assert quota.enter() is None
    refusal = quota.enter()
    assert refusal.wait == pytest.approx(20.0) and "3 requests a minute" in refusal.what
    clock.now = 19.0
    assert quota.enter().wait == pytest.approx(1.0)
    clock.now = 21.0
    assert quota.enter() is None and quota.enter() is not None
    clock.now = 1000.0  # what was not used is not saved up
    assert sum(quota.enter() is None for _ in range(9)) == 3


def test_tokens_a_minute_may_be_overdrawn_once():
    clock = Clock()
    quota = Quota(Limits(tokens_per_minute=60), clock)
    assert quota.enter() is None
    quota.spend(90)
    assert quota.enter().wait == pytest.approx(31.0)
    clock.now = 31.5
    assert quota.enter() is None


def test_requests_at_once():
    quota = Quota(Limits(requests=2))
    assert quota.enter() is None and quota.enter() is None and "2 requests at once" in quota.enter().what
    quota.leave()
    assert quota.enter() is None and quota.open == 2


def test_a_refused_request_costs_nothing():
    quota = Quota(Limits(requests=1, requests_per_minute=2), Clock())
    assert quota.enter() is None
    for _ in range(5):
        assert "at once" in quota.enter().what
    quota.leave()
    assert quota.enter() is None


def limited(open_house, **limits: int) -> House:
    return open_house(config=EngineConfig(serve=ServeConfig(api_key=("a", "b"), **limits)))


async def send(house: House, key: str, **more: object):
    return await ask(house.app, "POST", PATH, {**TEXT, **more}, headers={"Authorization": f"Bearer {key}"})


def check_refusal(reply, words: str) -> None:
    assert reply.status == 429 and reply.error["type"] == "RateLimitError" and reply.error["code"] == 429
    assert words in reply.error["message"] and 1 <= int(reply.headers["retry-after"]) <= 60


async def test_a_key_is_limited_alone(open_house):
    house = limited(open_house, max_requests_per_minute=2)
    for _ in range(2):
        assert (await send(house, "a")).status == 200
    check_refusal(await send(house, "a"), "2 requests a minute")
    assert (await send(house, "b")).status == 200
    for path in ("/v1/models", "/metrics", "/health"):  # looking is free
        assert (await ask(house.app, "GET", path, headers={"Authorization": "Bearer a"})).status == 200


async def test_prompt_and_answer_are_paid_for(open_house):
    house = limited(open_house, max_tokens_per_minute=7)
    first = (await send(house, "a")).json()["usage"]
    assert first["total_tokens"] < 7
    assert (await send(house, "a")).status == 200  # nobody knows beforehand what a request will take
    check_refusal(await send(house, "a"), "7 tokens a minute")
    assert (await send(house, "b")).status == 200


async def test_streams_count_while_they_are_open(open_house):
    house = limited(open_house, max_requests_per_key=1)
    house.engine.hold = 1
    call = Call(house.app, "POST", PATH, {**TEXT, "stream": True}, headers={"Authorization": "Bearer a"})
    await call.started()
    check_refusal(await send(house, "a"), "1 requests at once")
    call.leave()
    await call.ended()
    house.engine.go.set()
    assert (await send(house, "a")).status == 200


async def test_without_keys_all_clients_are_one(open_house):
    house = open_house(config=EngineConfig(serve=ServeConfig(max_requests_per_minute=1)))
    assert (await ask(house.app, "POST", PATH, TEXT)).status == 200
    check_refusal(await ask(house.app, "POST", PATH, TEXT), "1 requests a minute")


async def test_by_default_nothing_is_limited(house):
    for _ in range(50):
        assert (await ask(house.app, "POST", PATH, TEXT)).status == 200
    assert house.service.ring.anonymous.quota.open == 0


def test_a_long_wait_is_told_in_whole_seconds():
    clock = Clock()
    quota = Quota(Limits(requests_per_minute=1), clock)
    quota.enter()
    clock.now = 0.5
    assert math.ceil(quota.enter().wait) == 60
