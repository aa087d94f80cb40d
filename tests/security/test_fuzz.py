"""Thousands of malformed requests while fifty good streams are open: no answer is a 5xx, no stream is
lost or altered, and the memory is given back. Always this tree's server, for its memory is measured."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.prompts import draw
from tests.security.mutate import Mutator, Shot
from tests.serving import Server, serve

pytestmark = pytest.mark.this_tree

MODEL = "SmolLM2-135M-Instruct"
STREAMS = 50
ATTACKERS = 16
AT_REST = 5.0  # seconds
# exact arithmetic; what is cut off is given up soon; a pool and a cache of grammars that are full after the
# first storm, so that they do not grow while it is measured
FLAGS = (
    "--dtype=float32",
    "--max-model-len=256",
    "--num-gpu-blocks-override=900",
    "--grammar-cache=16",
    "--header-timeout=10",
    "--body-timeout=10",
    "--disable-access-log",
)
STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")


@pytest.fixture
def fuzzed(default_model: object) -> Iterator[Server]:
    with serve(*FLAGS) as server:
        yield server


def good(number: int, prompt: str, tokens: int) -> dict[str, object]:
    """Half of them greedy, half of them seeded; some with a grammar, some as a chat would be."""
    more: dict[str, object] = {"temperature": 0} if number % 2 else {"temperature": 1, "seed": number}
    if number % 5 == 0:
        more["structured_outputs"] = {"regex": "[a-z ]{400}"}
    return {
        "model": MODEL,
        "prompt": prompt[:200],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        "logprobs": 1,
        "return_token_ids": True,
        "stream_options": {"include_usage": True},
        "request_id": f"good-{number}",
        **more,
    }


async def follow(client: httpx.AsyncClient, body: dict[str, object]) -> str:
    """All a stream says, without the pieces it came in and the time of day."""
    text, ids, scores, last = "", [], [], {}
    async with client.stream("POST", "/v1/completions", json=body) as reply:
        assert reply.status_code == 200
        async for line in reply.aiter_lines():
            if line == "data: [DONE]":
                return json.dumps([text, ids, scores, last])
            if not line.startswith("data: "):
                continue
            event = json.loads(line[6:])
            assert "error" not in event, event
            for choice in event["choices"]:
                text += choice["text"]
                ids += choice["token_ids"]
                scores += choice["logprobs"]["token_logprobs"]
                last = {"finish": choice["finish_reason"]}
            if event["usage"]:
                last["tokens"] = event["usage"]["completion_tokens"]
    raise AssertionError("the stream ended without [DONE]")


async def fire(port: int, shot: Shot) -> int:
    """Sends one request; its status, or 0 when the connection was just closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    with contextlib.suppress(ConnectionError):
        writer.write(shot.data)
        await writer.drain()
        answer = await reader.read(1 << 16)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    found = STATUS.match(answer)
    return int(found[1]) if found else 0


class Storm:
    """Malformed requests, several at a time, until there are no more."""

    def __init__(self, port: int, seed: int, count: int) -> None:
        self._port = port
        mutator = Mutator(seed, MODEL)
        self._shots = (mutator.shot() for _ in range(count))
        self.statuses: Counter[int] = Counter()
        self.kinds: Counter[str] = Counter()

    async def run(self) -> None:
        await asyncio.gather(*(self._attack() for _ in range(ATTACKERS)))

    async def _attack(self) -> None:
        for shot in self._shots:
            status = await fire(self._port, shot)
            assert status < 500, (status, shot.what, shot.data[:2000])
            self.statuses[status] += 1
            self.kinds[shot.what] += 1


def connect(server: Server) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=server.url, timeout=None, limits=limits, trust_env=False)


async def resident(server: Server, client: httpx.AsyncClient) -> list[int]:
    """Bytes of each process, once all is quiet and the last steps were alike: when nothing has changed for
    a while, for processes at rest give memory back."""
    assert server.rests()
    for number in range(3):
        await follow(client, good(1, f"the end {number}", 2))
    sizes: list[int] = []
    since = time.monotonic()
    while time.monotonic() - since < AT_REST:
        now = [one.memory_info().rss for one in server.family()]
        if now != sizes:
            sizes, since = now, time.monotonic()
        await asyncio.sleep(0.1)
    return sizes


async def one_storm(
    server: Server, bodies: list[dict[str, object]], quiet: list[str] | None, storm: Storm
) -> list[str]:
    """Every stream again and again until the storm is over; each time it must say the same."""
    over = asyncio.Event()
    said: list[str] = [""] * len(bodies)

    async def keep(number: int, client: httpx.AsyncClient) -> None:
        while True:
            said[number] = await follow(client, bodies[number])
            assert quiet is None or said[number] == quiet[number], f"stream {number} was altered"
            if over.is_set():
                return

    async def rage() -> None:
        try:
            await storm.run()
        finally:
            over.set()

    async with connect(server) as client:
        await asyncio.gather(rage(), *(keep(number, client) for number in range(len(bodies))))
    return said


@pytest.mark.parametrize(
    "count,tokens", [(300, 12), pytest.param(10_000, 40, marks=pytest.mark.slow)], ids=["short", "full"]
)
@pytest.mark.timeout(7200)
async def test_malformed_requests_hurt_nobody(fuzzed: Server, count: int, tokens: int) -> None:
    prompts = draw(STREAMS, seed=3)
    bodies = [good(number, prompt, tokens) for number, prompt in enumerate(prompts)]
    nobody = Storm(fuzzed.port, 0, 0)
    quiet = await one_storm(fuzzed, bodies, None, nobody)
    # first a storm that is not measured: caches are full then, and buffers as large as steps ever get
    await one_storm(fuzzed, bodies, quiet, Storm(fuzzed.port, 1, max(300, count // 4)))
    async with connect(fuzzed) as client:
        before = await resident(fuzzed, client)
    storm = Storm(fuzzed.port, 2, count)
    await one_storm(fuzzed, bodies, quiet, storm)
    async with connect(fuzzed) as client:
        after = await resident(fuzzed, client)
    sizes = [[size >> 20 for size in sizes] for sizes in (before, after)]
    print(f"{count} requests: {dict(storm.statuses)}; MiB of each process before and after: {sizes}")
    assert sum(storm.statuses.values()) == count
    assert storm.statuses[400] > count / 4  # bad ones
    assert storm.statuses[200] > count / 50  # and nearly bad ones
    assert len(storm.kinds) > 15
    assert "Traceback" not in fuzzed.log.read_text()
    assert sum(after) <= sum(before) * 1.01, sizes
