"""Real sockets: the port, heads that are too large, signals. Still no torch."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

import pytest

from octavo.config.engine import EngineConfig
from octavo.config.serve import ServeConfig
from octavo.core.errors import UserError
from octavo.server.port import holder, listen
from tests.server.fake_engine import MODEL
from tests.server.running import QUIET, Running


def test_a_taken_port_names_who_has_it():
    with contextlib.closing(listen("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError) as caught:
            listen("127.0.0.1", port)
        assert f"(pid {os.getpid()})" in caught.value.message and str(port) in caught.value.message
        assert f"--port {port + 1}" in caught.value.hint and caught.value.field == "port"
    assert holder(port) == "another process"  # nobody any more


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7", "a" * 300, "\x00"])
def test_a_host_that_cannot_be(host):
    with pytest.raises((UserError, ValueError)) as caught:
        listen(host, 0)
    assert isinstance(caught.value, UserError) and caught.value.field == "host" and caught.value.hint


@pytest.fixture
async def running(open_house):
    async with Running(open_house(config=QUIET)) as one:
        yield one


def post(stream: bool) -> bytes:
    body = f'{{"model":"{MODEL}","prompt":"hello","stream":{str(stream).lower()}}}'.encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def test_answers(running):
    reader, writer = await running.send(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200") and b"server:" not in answer.lower()
    writer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
    ],
)
async def test_heads_are_bounded(running, data):
    reader, writer = await running.send(data)
    with contextlib.suppress(ConnectionError):
        assert b" 200 " not in await reader.read()
    writer.close()


@pytest.mark.parametrize("data", [b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"\xff" * 1000])
async def test_nonsense_is_answered_with_400(running, data):
    reader, writer = await running.send(data)
    assert b" 400 " in (await reader.read()).split(b"\r\n")[0]
    writer.close()


async def test_a_connection_that_closes_stops_its_request(running):
    running.house.engine.hold = 3
    for stream in (True, False):
        _reader, writer = await running.send(post(stream))
        while not running.house.engine.open:
            await asyncio.sleep(0.001)
        writer.close()
        await running.house.engine.idle.wait()
    assert len(running.house.engine.aborted) == 2
    while running.house.service.gate.open:
        await asyncio.sleep(0.001)


async def test_the_first_signal_finishes_streams_and_the_server_leaves(running):
    house = running.house
    house.engine.hold = 3
    reader, writer = await running.send(post(True))
    while not house.engine.open:
        await asyncio.sleep(0.001)
    running.stop.signal()
    while not house.service.traffic.leaving:
        await asyncio.sleep(0.001)
    other, closing = await running.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b" 503 " in await other.readline()  # new requests are told to go elsewhere
    assert not running.task.done()
    house.engine.go.set()
    assert (await reader.read()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    await running.task
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", running.port)
    for one in (writer, closing):
        one.close()


async def test_the_second_signal_does_not_wait(running):
    running.house.engine.hold = 3
    _, writer = await running.send(post(True))
    while not running.house.engine.open:
        await asyncio.sleep(0.001)
    running.stop.signal()
    running.stop.signal()
    await running.task
    writer.close()


async def test_patience_has_an_end(open_house):
    config = EngineConfig(serve=ServeConfig(shutdown_timeout=0.2), observe=QUIET.observe)
    one = Running(open_house(config=config))
    await one.ready.wait()
    one.house.engine.hold = 3
    reader, writer = await one.send(post(True))
    while not one.house.engine.open:
        await asyncio.sleep(0.001)
    one.stop.signal()
    told = await reader.read()
    assert b"the engine was shut down" in told and told.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    await one.task
    await one.house.engine.idle.wait()
    writer.close()
    one.listener.close()


def test_a_socket_is_not_left_open_by_a_failed_listen():
    before = len(os.listdir("/proc/self/fd"))
    with contextlib.closing(listen("127.0.0.1", 0)) as taken:
        for _ in range(5):
            with pytest.raises(UserError):
                listen("127.0.0.1", taken.getsockname()[1])
    assert len(os.listdir("/proc/self/fd")) == before
    assert isinstance(taken, socket.socket)
