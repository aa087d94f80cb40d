"""What happens around an answer: clients that leave, waits, full queues, a dead engine, the end."""

from __future__ import annotations

import asyncio

import pytest

from octavo.config.engine import EngineConfig
from octavo.config.schedule import ScheduleConfig
from octavo.config.serve import ServeConfig
from octavo.core.errors import EngineDead
from octavo.server.run import resting
from octavo.server.sse import BEAT
from tests.server.asgi import Call, ask, stream
from tests.server.fake_engine import MODEL

HI = [{"role": "user", "content": "hello"}]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
BODIES = [
    (CHAT, {"model": MODEL, "messages": HI, "n": 2, "temperature": 1.0}),
    (TEXT, {"model": MODEL, "prompt": ["hello", "the"]}),
]
ONE = {"model": MODEL, "prompt": "hello"}


def tasks() -> set[asyncio.Task]:
    return asyncio.all_tasks()


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("path,body", BODIES)
async def test_a_client_that_leaves_stops_its_request(house, path, body, streamed):
    before = tasks()
    house.engine.hold = 4
    call = Call(house.app, "POST", path, {**body, "stream": streamed})
    if streamed:
        await call.started()
    while len(house.engine.open) < 2:
        await asyncio.sleep(0)
    assert house.service.gate.open == 2
    call.leave()
    await call.ended()
    assert len(house.engine.aborted) == 2 and not house.engine.open
    assert house.service.gate.open == 0 and house.service.traffic.open == 0
    assert tasks() == before
    assert house.service.meter.finished["abort"] == 2


async def test_a_client_that_leaves_before_the_first_byte(house):
    call = Call(house.app, "POST", TEXT, {**ONE, "stream": True})
    call.leave()
    await call.ended()
    await house.engine.idle.wait()
    assert house.service.gate.open == 0


async def test_a_client_that_leaves_within_its_body_is_no_fault_of_ours(house, caplog):
    call = Call(house.app, "POST", TEXT, raw=b"")
    call._inbox.get_nowait()
    call._inbox.put_nowait({"type": "http.request", "body": b'{"model":', "more_body": True})
    call.leave()
    assert await call.started() == 499  # for the log alone
    await call.ended()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_long_waits_send_comments(open_house):
    house = open_house(config=EngineConfig(serve=ServeConfig(heartbeat=0.1)))
    house.engine.hold = 0
    call = Call(house.app, "POST", TEXT, {**ONE, "stream": True})
    await call.started()
    parts = call.parts()
    for _ in range(3):
        assert await anext(parts) == BEAT
    house.engine.go.set()
    rest = [part async for part in parts]
    assert rest[-1] == b"data: [DONE]\n\n" and BEAT.startswith(b":")


async def test_a_full_queue_says_when_to_come_back(open_house):
    house = open_house(config=EngineConfig(schedule=ScheduleConfig(max_queue=3)))
    house.engine.hold = 1
    calls = [Call(house.app, "POST", TEXT, {**ONE, "stream": True}) for _ in range(3)]
    for call in calls:
        await call.started()
    refused = await ask(house.app, "POST", TEXT, ONE)
    assert (refused.status, refused.error["type"]) == (503, "OverloadedError")
    assert int(refused.headers["retry-after"]) >= 1
    assert "3 of 3" in refused.error["message"] and "--max-queue" in refused.error["message"]
    assert (await ask(house.app, "GET", "/load")).json() == {"server_load": 3, "capacity": 3}
    calls[0].leave()
    await calls[0].ended()
    house.engine.go.set()
    assert (await ask(house.app, "POST", TEXT, ONE)).status == 200
    for call in calls[1:]:
        async for _ in call.parts():
            pass
        await call.ended()
    assert house.service.gate.open == 0


async def test_more_rows_than_the_queue_holds_can_never_be_served(open_house):
    house = open_house(config=EngineConfig(schedule=ScheduleConfig(max_queue=3)))
    error = (
        await ask(house.app, "POST", TEXT, {**ONE, "prompt": ["a", "b"], "n": 2, "temperature": 1.0})
    ).error
    assert error["code"] == 400 and "limit is 3" in error["message"]


async def test_a_body_that_is_too_large_is_refused_while_it_comes(open_house):
    house = open_house(config=EngineConfig(serve=ServeConfig(max_body_bytes=2048)))
    big = b"x" * 5000
    announced = await ask(house.app, "POST", TEXT, raw=big)
    hidden = await ask(house.app, "POST", TEXT, raw=big, headers={"content-length": "0"})
    odd = await ask(house.app, "POST", TEXT, raw=b"{}", headers={"content-length": "9" * 40})
    for reply in (announced, hidden, odd):
        assert reply.status == 413 and "2048" in reply.error["message"]
        assert "--max-body-bytes" in reply.error["message"]


async def test_large_bodies_are_counted_together(open_house):
    house = open_house(config=EngineConfig(serve=ServeConfig(max_body_bytes=2048, max_bodies_bytes=4096)))
    house.engine.hold = 1
    large = {**ONE, "user": "x" * 1500, "stream": True}
    calls = [Call(house.app, "POST", TEXT, large) for _ in range(2)]
    for call in calls:
        await call.started()
    refused = await ask(house.app, "POST", TEXT, {**ONE, "user": "x" * 1500})
    assert refused.status == 503 and "large" in refused.error["message"] and refused.headers["retry-after"]
    for call in calls:
        call.leave()
        await call.ended()
    house.engine.go.set()
    assert (await ask(house.app, "POST", TEXT, {**ONE, "user": "x" * 1500})).status == 200


async def test_an_engine_that_dies_in_a_stream_is_told_in_the_stream(house):
    house.engine.broken = EngineDead("the engine process was ended by SIGKILL")
    events = await stream(house.app, CHAT, {"model": MODEL, "messages": HI})
    assert events[-1] == "[DONE]"
    assert events[-2]["error"]["code"] == 503 and "SIGKILL" in events[-2]["error"]["message"]
    whole = await ask(house.app, "POST", CHAT, {"model": MODEL, "messages": HI})
    assert whole.status == 503 and whole.headers["retry-after"]
    assert house.service.gate.open == 0 and house.service.meter.finished["error"] == 2


async def test_health(house):
    assert (await ask(house.app, "GET", "/health")).content == b""
    house.engine.sick = "no step has finished for 121 s"
    for method, path in (("GET", "/health"), ("GET", "/ping"), ("POST", "/ping")):
        reply = await ask(house.app, method, path)
        assert reply.status == 503 and "121 s" in reply.error["message"]


async def test_a_leaving_server_finishes_what_is_open_and_refuses_the_rest(house):
    house.engine.hold = 2
    call = Call(house.app, "POST", TEXT, {**ONE, "stream": True})
    await call.started()
    house.service.traffic.leaving = True
    for method, path, body in (("POST", TEXT, ONE), ("GET", "/health", None)):
        refused = await ask(house.app, method, path, body)
        assert refused.status == 503 and "shutting down" in refused.error["message"]
        assert refused.headers["retry-after"] and refused.headers["connection"] == "close"
    house.engine.go.set()
    events = [event async for event in call.events()]
    assert events[-1] == "[DONE]"
    await call.ended()
    await house.service.traffic.quiet()


async def test_long_texts_do_not_hold_up_the_others(house, monkeypatch):
    """They are rendered in a thread: another request is answered meanwhile."""
    import threading

    entered, leave = threading.Event(), threading.Event()
    build = house.builder.build

    def slow(prompt, *rest):
        if len(prompt) > 4096:
            entered.set()
            assert leave.wait(20)
        return build(prompt, *rest)

    monkeypatch.setattr(house.builder, "build", slow)
    long = asyncio.ensure_future(ask(house.app, "POST", TEXT, {**ONE, "prompt": "x" * 5000}))
    await asyncio.to_thread(entered.wait, 20)
    assert (await ask(house.app, "POST", TEXT, ONE)).status == 200
    leave.set()
    assert (await long).status == 400  # too long for this context, and told so


async def test_memory_is_given_back_when_nobody_came_for_a_while(house):
    rested = asyncio.Semaphore(0)
    task = asyncio.ensure_future(resting(house.service.traffic, rested.release, every=0.001))
    for _ in range(2):
        house.engine.hold = 1
        call = Call(house.app, "POST", TEXT, ONE)
        while not house.engine.open:
            await asyncio.sleep(0)
        for _ in range(5):  # while it is open nothing is
            await asyncio.sleep(0.001)
        assert rested.locked()
        house.engine.go.set()
        await call.ended()
        await rested.acquire()
        for _ in range(5):  # and not again
            await asyncio.sleep(0.001)
        assert rested.locked()
        house.engine.go.clear()
    task.cancel()
