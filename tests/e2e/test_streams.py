"""The default model behind real sockets, its core in a process of its own: many streams, some of
them given up; a core that is killed; signals. Nothing may leak and nobody may notice the others."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator

import httpx
import psutil
import pytest

from tests.e2e.prompts import draw
from tests.serving import Server, serve

TOKENS = 8
# exact arithmetic; a pool so small that all of it has been used after a few hundred requests
FLAGS = (
    "--dtype",
    "float32",
    "--max-model-len",
    "512",
    "--num-gpu-blocks-override",
    "300",
    "--disable-uvicorn-access-log",
)


@pytest.fixture(scope="module")
def streams() -> Iterator[Server]:
    with serve(*FLAGS) as running:
        yield running


def body(prompt: str, **more: object) -> dict[str, object]:
    return {
        "model": "SmolLM2-135M-Instruct",
        "prompt": prompt,
        "temperature": 0,
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "return_token_ids": True,
        **more,
    }


async def whole(client: httpx.AsyncClient, prompt: str, **more: object) -> list[int]:
    reply = await client.post("/v1/completions", json=body(prompt, **more))
    assert reply.status_code == 200, reply.text
    return list(reply.json()["choices"][0]["token_ids"])


async def follow(
    client: httpx.AsyncClient,
    prompt: str,
    leave_after: int | None = None,
    told: Callable[[], object] = lambda: None,
    **more: object,
) -> list[int]:
    """Token ids of a stream; leaves it after so many events. `told` is called at each of them."""
    ids: list[int] = []
    events = 0
    async with client.stream("POST", "/v1/completions", json=body(prompt, stream=True, **more)) as reply:
        assert reply.status_code == 200
        if leave_after == 0:
            return ids
        async for line in reply.aiter_lines():
            if line == "data: [DONE]":
                return ids
            if line.startswith("data: "):
                event = json.loads(line[6:])
                assert "error" not in event, event
                ids += event["choices"][0]["token_ids"]
                events += 1
                told()
            if leave_after is not None and events >= leave_after:
                return ids
    raise AssertionError("the stream ended without [DONE]")


def metric(server: Server, name: str) -> float:
    lines = [line for line in server.get("/metrics").splitlines() if line.startswith(f"octavo:{name}{{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


async def settle(check: Callable[[], bool], what: Callable[[], object]) -> None:
    """Waits until a state is reached; says what it was when it never is."""
    deadline = time.monotonic() + 30
    while not check():
        assert time.monotonic() < deadline, what()
        await asyncio.sleep(0.05)


def open_things(server: Server) -> list[tuple[int, int]]:
    """Descriptors and threads of each process."""
    return [(one.num_fds(), one.num_threads()) for one in server.family()]


def connect(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, timeout=600, limits=httpx.Limits(max_connections=None))


@pytest.mark.timeout(900)
async def test_two_hundred_streams_a_third_given_up(streams: Server) -> None:
    prompts = draw(20, seed=11)
    rng = random.Random(5)
    plan = [(prompts[n % 20], rng.randrange(6) if n % 3 == 0 else None) for n in range(200)]
    async with connect(streams) as client:
        alone = {prompt: await whole(client, prompt) for prompt in prompts}
    await settle(lambda: metric(streams, "kv_cache_usage_perc") == 0, lambda: streams.get("/metrics"))
    before = open_things(streams)
    async with connect(streams) as client:
        got = await asyncio.gather(*(follow(client, prompt, leave) for prompt, leave in plan))
    for (prompt, leave), ids in zip(plan, got, strict=True):
        if leave is None:
            assert ids == alone[prompt]
        else:
            assert ids == alone[prompt][: len(ids)]
    assert metric(streams, "request_success_total") >= 220
    for name in ("kv_cache_usage_perc", "num_requests_running", "num_requests_waiting"):
        await settle(lambda name=name: metric(streams, name) == 0, lambda: streams.get("/metrics"))
    assert streams.rests()

    def closed() -> bool:
        return all(n <= b[0] and t <= b[1] for (n, t), b in zip(open_things(streams), before, strict=True))

    await settle(closed, lambda: (before, open_things(streams)))
    async with connect(streams) as client:
        assert await whole(client, prompts[0]) == alone[prompts[0]]


async def burst(server: Server, count: int, seed: int) -> None:
    """Short requests, 16 at a time, no two alike."""
    prompts = iter([f"{n} {text[:40]}" for n, text in enumerate(draw(count, seed))])

    async def worker(client: httpx.AsyncClient) -> None:
        for prompt in prompts:
            await whole(client, prompt, max_tokens=1)

    async with connect(server) as client:
        await asyncio.gather(*(worker(client) for _ in range(16)))
        for n in range(3):  # end alike: the last step's buffers are kept until the next one
            await whole(client, f"the end {n}", max_tokens=2)


def resident(server: Server) -> int:
    return sum(one.memory_info().rss for one in server.family())


@pytest.mark.parametrize(
    "first,second", [(300, 120), pytest.param(500, 1500, marks=pytest.mark.slow)], ids=["short", "long"]
)
@pytest.mark.timeout(1800)
async def test_memory_does_not_grow_with_requests(streams: Server, first: int, second: int) -> None:
    await burst(streams, first, seed=1)
    early = resident(streams)
    await burst(streams, second, seed=2)
    late = resident(streams)
    assert late <= early * 1.01, f"{early >> 20} MiB, then {late >> 20} MiB"


async def test_a_killed_core_loses_no_stream(streams: Server) -> None:
    """The front starts another core and replays; every stream goes on, token for token."""
    prompts = draw(4, seed=23)
    async with connect(streams) as client:
        alone = await asyncio.gather(*(whole(client, prompt, max_tokens=60) for prompt in prompts))
        restarts = metric(streams, "engine_restarts_total")
        many = asyncio.Semaphore(0)  # tokens that came
        open_ones = [
            asyncio.ensure_future(follow(client, prompt, told=many.release, max_tokens=60))
            for prompt in prompts
        ]
        for _ in range(12):
            await many.acquire()
        (core,) = psutil.Process(streams.process.pid).children()
        os.kill(core.pid, signal.SIGKILL)
        assert await asyncio.gather(*open_ones) == alone
        assert metric(streams, "engine_restarts_total") == restarts + 1
    assert streams.rests()


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_finishes_streams_and_leaves_no_process(name: signal.Signals) -> None:
    with serve(*FLAGS, "--max-num-seqs", "4") as server:
        family = server.family()
        assert len(family) == 2
        async with connect(server) as client:
            alone = await whole(client, "Once upon a time", max_tokens=24)
            began = asyncio.Event()
            stream = asyncio.ensure_future(follow(client, "Once upon a time", told=began.set, max_tokens=24))
            await began.wait()
            os.kill(server.process.pid, name)
            assert await stream == alone
        await settle(
            lambda: not any(one.is_running() and one.status() != "zombie" for one in family), lambda: family
        )
        assert server.process.wait(10) == 0
        assert "Traceback" not in server.log.read_text()
