"""CoreClient with a real core process whose device is made of lists."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from octavo.config.engine import EngineConfig
from octavo.config.serve import ServeConfig
from octavo.core.errors import ArtefactError, EngineDead, Fault
from octavo.core.request import Delta, EngineRequest, Finish
from octavo.engine.client import CoreClient
from octavo.engine.journal import Journal
from tests.fakes import naive
from tests.unit.engine.conftest import MODULE, files, request
from tests.unit.engine.fake_core import SHAPE


async def tokens_of(client: CoreClient, asked: EngineRequest) -> tuple[int, ...]:
    return tuple([t async for delta in client.submit([asked]) for t in delta.tokens])


async def test_streams_are_complete_and_independent(start):
    client = await start()
    asked = [request(f"r{n}", prompt=4 + n, max_tokens=10 + n) for n in range(20)]
    got = await asyncio.gather(*(tokens_of(client, one) for one in asked))
    assert list(got) == [naive(one, SHAPE).tokens for one in asked]
    assert client.open_requests == 0
    assert client.health() is None
    assert client.ready.max_model_len == SHAPE.max_model_len


async def test_one_stream_for_the_rows_of_one_submission(start):
    client = await start()
    rows = [request("p"), request("q", prompt=9)]
    ends = [d.id async for d in client.submit(rows) if d.finish is not None]
    assert sorted(ends) == ["p", "q"]


async def test_abort_ends_the_stream_and_frees_blocks(start):
    client = await start()
    stream = client.submit([request("long", max_tokens=3000)])
    async for delta in stream:
        if delta.tokens:
            client.abort(["long", "unknown"])
            break
    last = [delta async for delta in stream][-1]
    assert last.finish is Finish.ABORT
    assert client.open_requests == 0
    while client.stats.running:
        await asyncio.sleep(0.01)
    assert client.stats.blocks_used == 0


async def test_calls(start):
    client = await start()
    assert await client.call("echo", x=[1, "a"]) == {"x": [1, "a"]}
    assert await client.call("reset_prefix_cache") is True
    with pytest.raises(Fault, match="nonsense"):
        await client.call("nonsense")


async def test_start_errors_keep_their_class(start):
    with pytest.raises(ArtefactError) as caught:
        await start("bad")
    error = caught.value
    assert (error.message, error.hint, error.field) == ("no such weights", "fetch them", "model")


async def test_a_core_that_ends_at_start_says_how(start):
    with pytest.raises(EngineDead, match="status 3"):
        await start("mute")


@pytest.mark.parametrize("how", ["killed", "broken"])
async def test_a_crash_loses_no_stream(start, how):
    """Open streams go on where they were, token for token, and new ones are served."""
    client = await start("fine" if how == "killed" else "weak")
    asked = [request(f"r{n}", prompt=6 + n, max_tokens=400) for n in range(6)]
    expected = [naive(one, SHAPE).tokens for one in asked]
    seen: list[int] = []

    async def follow(one: EngineRequest) -> tuple[int, ...]:
        tokens: list[int] = []
        cached = 0
        async for delta in client.submit([one]):
            tokens += delta.tokens
            cached += delta.cached_tokens is not None
            seen.append(1)
        assert cached == 1  # told once, not again after the crash
        return tuple(tokens)

    tasks = [asyncio.ensure_future(follow(one)) for one in asked]
    if how == "killed":
        while len(seen) < 20:
            await asyncio.sleep(0.001)
        os.kill(client.pid, signal.SIGKILL)
        late = request("late", max_tokens=50)  # nobody has noticed yet
        assert await tokens_of(client, late) == naive(late, SHAPE).tokens
    # the weak device fails again at the third step of its second life, and is then given up
    if how == "broken":
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert client.restarts >= 1
        assert all(isinstance(one, EngineDead) or len(one) < 400 for one in done)
        return
    assert [tuple(one) for one in await asyncio.gather(*tasks)] == expected
    assert client.restarts == 1
    assert await tokens_of(client, request("after")) == naive(request("after"), SHAPE).tokens
    assert client.health() is None


async def test_a_core_that_dies_at_its_first_step_is_not_tried_again(start):
    client = await start("fatal")
    with pytest.raises(EngineDead, match="status 4"):
        await tokens_of(client, request())
    assert client.restarts == 0
    assert "status 4" in (client.health() or "")
    with pytest.raises(EngineDead):
        client.submit([request("b")])
    with pytest.raises(EngineDead):
        await client.call("stats")


async def test_health_tells_an_overdue_step(start):
    now = [100.0]
    config = EngineConfig(serve=ServeConfig(step_timeout=30.0))
    client = await start(config=config, clock=lambda: now[0])
    os.kill(client.pid, signal.SIGSTOP)  # a core that hangs
    try:
        stream = client.submit([request()])
        now[0] += 29.0
        assert client.health() is None
        now[0] += 2.0
        assert "31 s" in (client.health() or "")
    finally:
        os.kill(client.pid, signal.SIGCONT)
    assert [d async for d in stream][-1].finish is Finish.LENGTH
    now[0] += 1000.0
    assert client.health() is None  # idle is healthy


async def test_close_leaves_nothing_behind():
    client = CoreClient(EngineConfig(), files(), module=MODULE)
    await client.start()
    pid, folder = client.pid, Path(client._process._folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    stream = client.submit([request(max_tokens=3000)])
    await client.close()
    with pytest.raises(EngineDead):
        async for _ in stream:
            pass
    assert not psutil.pid_exists(pid)
    assert not folder.exists()
    await client.close()  # twice is fine


async def test_cancelled_start_leaves_nothing_behind(monkeypatch):
    client = CoreClient(EngineConfig(), files(), module=MODULE)
    starting = asyncio.ensure_future(client.start())
    while client.pid is None:
        await asyncio.sleep(0.005)
    pid = client.pid
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    assert not psutil.pid_exists(pid)
    await client.close()


ORPHAN = """
import asyncio, os
from octavo.config.engine import EngineConfig
from octavo.engine.client import CoreClient
from tests.unit.engine.conftest import MODULE, files
async def main():
    client = CoreClient(EngineConfig(), files(), module=MODULE)
    await client.start()
    print(client.pid, flush=True)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""


def test_a_core_dies_with_its_front():
    done = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(10)  # TimeoutExpired: it lives on
    assert not psutil.pid_exists(pid)


async def test_ctrl_c_reaches_the_front_alone(start):
    client = await start()
    for name in (signal.SIGINT, signal.SIGTERM):
        os.kill(client.pid, name)
    assert await tokens_of(client, request()) == naive(request(), SHAPE).tokens
    assert os.getsid(client.pid) != os.getsid(0)


# -- the journal --------------------------------------------------------------------------------


async def test_journal_replays_what_was_sent_and_skips_what_was_told():
    journal = Journal()
    asked = request("j", max_tokens=9)
    child = EngineRequest(id="k", tokens=(1,), seed=2, parent=("j", 1))
    stream = journal.open([asked, child])
    score = naive(request("s", prompt_logprobs=0), SHAPE).scores
    journal.deliver([Delta(id="j", tokens=(4, 5), cached_tokens=3, prompt_logprobs=score[:2])])
    journal.count_death()
    again = {one.id: one for one in journal.replay()}
    assert again["j"].output == (4, 5) and again["j"].tokens == asked.tokens
    assert again["k"].parent is None  # its parent may be long gone
    journal.deliver([Delta(id="j", cached_tokens=0, prompt_logprobs=score[:1])])
    journal.deliver([Delta(id="j", tokens=(6,), prompt_logprobs=score[1:], finish=Finish.STOP)])
    journal.deliver([Delta(id="j", tokens=(7,)), Delta(id="k", finish=Finish.STOP)])
    got = [delta async for delta in stream]
    assert [t for d in got for t in d.tokens] == [4, 5, 6]
    assert [s for d in got for s in d.prompt_logprobs] == list(score)
    assert [d.cached_tokens for d in got if d.id == "j"] == [3, None, None]
    assert len(journal) == 0


async def test_a_request_that_saw_too_many_deaths_ends():
    journal = Journal()
    stream = journal.open([request("unlucky")])
    for _ in range(3):
        journal.count_death()
    got = [delta async for delta in stream]
    assert got[0].finish is Finish.ERROR and "3 times" in got[0].error
    assert journal.replay() == ()
