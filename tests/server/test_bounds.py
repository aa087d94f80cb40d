"""What a connection may send, and how slowly: sizes, counts and times, over raw sockets."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator

import pytest

from octavo.config.engine import EngineConfig
from octavo.config.serve import ServeConfig
from tests.server.fake_engine import MODEL
from tests.server.running import QUIET, Running

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = json.dumps({"model": MODEL, "prompt": "hello", "max_tokens": 3}).encode()
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes, more: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n" % (len(data), more, data)


@contextlib.asynccontextmanager
async def bounded(open_house, **settings: object) -> AsyncIterator[Running]:
    serve = dataclasses.replace(QUIET.serve, **settings)
    async with Running(open_house(config=EngineConfig(serve=serve, observe=QUIET.observe))) as one:
        yield one


async def said(one: Running, *pieces: bytes) -> bytes:
    """All that comes back until the server closes. Pieces are sent apart; the peer may be gone before."""
    reader, writer = await one.send(b"")
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
    data = b""
    with contextlib.suppress(ConnectionError):
        while got := await reader.read(1 << 16):
            data += got
    writer.close()
    return data


def status(data: bytes) -> int:
    return int(data.split(b" ", 2)[1]) if data else 0


def error(data: bytes) -> dict:
    return dict(json.loads(data.partition(b"\r\n\r\n")[2])["error"])


@pytest.mark.parametrize("together", [True, False], ids=["at once", "in pieces"])
@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        HEALTH + b"X: " + b"a" * 3000 + b"\r\n\r\n",
        HEALTH + b"X" * 3000 + b": a\r\n\r\n",
        HEALTH + b"X: y\r\n" * 20 + b"\r\n",
        HEALTH + b"X: y\r\n" * 1000 + b"\r\n",
        b"\r\n" * 2000,
    ],
    ids=["path", "value", "name", "count", "count and size", "line breaks"],
)
async def test_heads(open_house, head, together):
    async with bounded(open_house, max_header_bytes=2048, max_header_count=16) as one:
        pieces = [head] if together else [head[at : at + 500] for at in range(0, len(head), 500)]
        data = await said(one, *pieces)
        assert status(data) in (0, 431), data  # 0: reset, since more had been sent than was read
        assert not data or error(data)["code"] == 431
        assert status(await said(one, HEALTH + b"Connection: close\r\n\r\n")) == 200


@pytest.mark.parametrize(
    "rest",
    [
        [chunk(BODY), b"0\r\nX: ", *[b"a" * 4000] * 50],
        [chunk(BODY), b"0\r\n", *[b"X: " + b"a" * 1000 + b"\r\n"] * 100],
        [b"1;", *[b"a" * 4000] * 50],
    ],
    ids=["one trailer", "many trailers", "an extension"],
)
async def test_what_is_neither_head_nor_body(open_house, rest):
    async with bounded(open_house, max_header_bytes=2048) as one:
        assert status(await said(one, CHUNKED, *rest)) in (0, 400, 431)
        assert one.house.engine.submitted == []


async def test_trailers_do_not_pose_as_headers(open_house):
    async with bounded(open_house, api_key=("k",)) as one:
        late = CHUNKED + chunk(BODY) + b"0\r\nAuthorization: Bearer k\r\n\r\n"
        reader, writer = await one.send(late)
        assert b" 401 " in await reader.readline()
        writer.close()


async def test_bodies_in_pieces(open_house):
    async with bounded(open_house, max_header_bytes=1024) as one:
        pieces = [chunk(BODY[at : at + 1], b";x=y") for at in range(len(BODY))]
        reader, writer = await one.send(CHUNKED + b"".join(pieces) + b"0\r\n\r\n")
        assert b" 200 " in await reader.readline()
        writer.close()


@pytest.mark.parametrize(
    "sent,what",
    [
        (b"", "head"),
        (b"GET /hea", "head"),
        (HEALTH, "head"),
        (HEALTH + b"X: ", "head"),
        (b"\r\n", "head"),
        (HEAD + b"Content-Length: 500\r\n\r\n" + BODY, "body"),
        (CHUNKED + chunk(BODY), "body"),
        (CHUNKED + b"5", "body"),
    ],
)
async def test_whoever_does_not_finish_is_closed(open_house, sent, what):
    async with bounded(open_house, header_timeout=0.2, body_timeout=0.2) as one:
        data = await said(one, sent)
        assert status(data) == 408 and what in error(data)["message"]
        assert one.house.engine.submitted == [] and one.house.service.gate.open == 0


async def test_a_slow_head_is_closed_however_steadily_it_comes(open_house):
    async with bounded(open_house, header_timeout=0.3) as one:
        reader, writer = await one.send(HEALTH)
        answer = asyncio.ensure_future(reader.read())
        with contextlib.suppress(ConnectionError):
            while not answer.done():
                writer.write(b"X: y\r\n")
                await writer.drain()
                await asyncio.wait([answer], timeout=0.02)
        with contextlib.suppress(ConnectionError):  # reset, where another header came too late
            assert status(await answer) == 408
        writer.close()


async def test_an_idle_connection_is_closed(open_house):
    async with bounded(open_house, keep_alive_timeout=0.2, header_timeout=0.2) as one:
        for more in (b"", b"\r\n", b"GET /he"):  # quiet, line breaks, half a request after a whole one
            assert status(await said(one, HEALTH + b"\r\n" + more)) == 200


async def test_a_stream_may_take_longer_than_any_of_that(open_house):
    async with bounded(
        open_house, header_timeout=0.1, body_timeout=0.1, keep_alive_timeout=0.1, heartbeat=0.1
    ) as one:
        one.house.engine.hold = 2
        body = json.dumps({"model": MODEL, "prompt": "hello", "stream": True}).encode()
        reader, writer = await one.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        for _ in range(5):
            await reader.readuntil(b": waiting")
        one.house.engine.go.set()
        await reader.readuntil(b"[DONE]")
        writer.close()


async def test_connections_are_counted(open_house):
    async with bounded(open_house, max_connections=2) as one:
        held = [await one.send(HEALTH) for _ in range(2)]
        data = await said(one)  # accepted after the two
        assert status(data) == 503 and b"Retry-After: 5" in data and error(data)["code"] == 503
        held[0][1].close()
        while status(await said(one, HEALTH + b"Connection: close\r\n\r\n")) != 200:
            await asyncio.sleep(0)
        held[1][1].close()


async def test_requests_ahead_are_counted(open_house):
    async with bounded(open_house) as one:
        one.house.engine.hold = 1
        first = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
        reader, writer = await one.send(first + (HEALTH + b"\r\n") * 200)
        assert status(await reader.read()) == 400
        await one.house.engine.idle.wait()
        writer.close()


async def test_a_few_requests_ahead_are_answered_in_order(open_house):
    async with bounded(open_house) as one:
        lines = [b"GET /version", b"GET /nothing", b"GET /load"]
        sent = b"".join(line + b" HTTP/1.1\r\nHost: x\r\n\r\n" for line in lines)
        data = await said(one, sent + HEALTH + b"Connection: close\r\n\r\n")
        assert [part[:3] for part in data.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200", b"200"]


async def test_whoever_does_not_read_is_cut_off(open_house):
    async with bounded(open_house, send_timeout=0.3) as one:
        prompt = "x" * 200
        body = {"model": MODEL, "prompt": [prompt] * 1000, "echo": True, "stream": True, "max_tokens": 1}
        data = json.dumps(body | {"return_token_ids": True}).encode()
        reader, writer = await one.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        while not one.house.engine.submitted:
            await asyncio.sleep(0)
        await one.house.engine.idle.wait()
        while one.house.service.gate.open:
            await asyncio.sleep(0.01)
        writer.close()


async def test_what_is_not_http_is_told_as_json(open_house):
    async with bounded(open_house) as one:
        for nonsense in (
            b"GET\r\n\r\n",
            b"\x16\x03\x01\r\n\r\n",
            b"OPTIONS * HTTP/9.9\r\n\r\n",
            b"GET / HTTP/1.1\r\n:\r\n\r\n",
        ):
            data = await said(one, nonsense)
            assert status(data) == 400 and error(data)["type"] == "BadRequestError"


def test_the_defaults_are_bounded():
    serve = ServeConfig()
    assert 0 < serve.max_header_bytes <= 1 << 20 and 0 < serve.max_header_count <= 1000
    assert 0 < serve.header_timeout <= 60 and 0 < serve.body_timeout <= 3600
    assert 0 < serve.max_connections <= 65536 and 0 < serve.max_body_bytes <= 1 << 30
