"""EngineCore in this process, on a device made of lists."""

from __future__ import annotations

import threading

import pytest

from octavo.config.engine import EngineConfig
from octavo.config.schedule import ScheduleConfig
from octavo.core.errors import EngineError, Fault
from octavo.core.mail import Abort, Add, Call, News, Reply, Stop
from octavo.core.request import Finish
from octavo.engine.core import EngineCore, limits_of
from octavo.engine.inline import InlineClient
from octavo.engine.process import failure, run
from octavo.executor.inline import InlineExecutor
from tests.fakes import FakeRunner, naive
from tests.unit.engine.conftest import files, request
from tests.unit.engine.fake_core import SHAPE, Moody


@pytest.fixture
def core():
    made = EngineCore(EngineConfig(), files(), InlineExecutor(lambda: FakeRunner(SHAPE)))
    made.start(lambda stage, share: None)
    yield made
    made.close()


def drain(core: EngineCore) -> dict[str, list]:
    deltas: dict[str, list] = {}
    while core.busy:
        for delta in core.step():
            deltas.setdefault(delta.id, []).append(delta)
    return deltas


def test_requests_are_answered_as_if_alone(core):
    asked = [request(f"r{n}", prompt=3 + n, max_tokens=20) for n in range(8)]
    core.add(asked)
    got = drain(core)
    for one in asked:
        tokens = tuple(t for delta in got[one.id] for t in delta.tokens)
        assert tokens == naive(one, SHAPE).tokens
        assert got[one.id][-1].finish is Finish.LENGTH
    assert core.stats().blocks_used == 0
    assert core.stats().overlapped > 0  # planning ran beside execution
    assert core.step() == []


def test_a_refused_request_ends_alone(core):
    fine = request("fine")
    core.add([request("twice"), request("twice"), fine])
    got = drain(core)
    refused = [d for d in got["twice"] if d.finish is Finish.ERROR]
    assert len(refused) == 1 and refused[0].error
    assert tuple(t for d in got["fine"] for t in d.tokens) == naive(fine, SHAPE).tokens


def test_a_bug_in_adding_one_request_ends_it_alone(core, monkeypatch, caplog):
    add = core._scheduler.add
    monkeypatch.setattr(core._scheduler, "add", lambda r: 1 // 0 if r.id == "bug" else add(r))
    core.add([request("bug"), request("fine")])
    got = drain(core)
    assert got["bug"][0].finish is Finish.ERROR
    assert got["bug"][0].error == "internal error: ZeroDivisionError"
    assert got["fine"][-1].finish is Finish.LENGTH


def test_abort_frees_blocks(core):
    core.add([request("long", prompt=40, max_tokens=2000)])
    for _ in range(6):
        core.step()
    assert core.stats().blocks_used > 0
    core.abort(["long", "never heard of"])
    drain(core)
    assert core.stats().blocks_used == 0


def test_calls(core):
    core.add([request("warm", prompt=40)])
    drain(core)
    core.add([request("warm", prompt=40)])
    assert drain(core)["warm"][0].cached_tokens
    assert core.call("reset_prefix_cache", {}) is True
    core.add([request("warm", prompt=40)])
    assert not drain(core)["warm"][0].cached_tokens
    assert core.call("stats", {}) == core.stats()
    assert core.call("echo", {"x": 1}) == {"x": 1}
    with pytest.raises(EngineError, match="unknown"):
        core.call("nonsense", {})
    core.add([request("busy")])
    with pytest.raises(Fault, match="idle"):
        core.call("echo", {})


def test_limits_come_from_worker_and_settings(core):
    ready = FakeRunner(SHAPE).start(lambda stage, share: None)
    config = EngineConfig(schedule=ScheduleConfig(async_scheduling=False, max_num_batched_tokens=77))
    limits = limits_of(config, files("m"), ready)
    assert (limits.depth, limits.budget, limits.max_model_len) == (1, 77, 4096)
    assert limits.max_rows == SHAPE.cache.max_rows
    assert limits.model_key == "m"


def test_inline_client():
    client = InlineClient(EngineConfig(), files(), executor=InlineExecutor(lambda: FakeRunner(SHAPE)))
    asked = request("x", max_tokens=30)
    client.submit([asked])
    tokens: list[int] = []
    while client.busy:
        for delta in client.step():
            tokens += delta.tokens
    assert tuple(tokens) == naive(asked, SHAPE).tokens
    assert client.stats().generated_tokens == 30
    assert client.call("reset_prefix_cache") is True
    client.close()


def test_inline_client_that_cannot_load_leaves_no_thread():
    before = threading.active_count()
    with pytest.raises(EngineError, match="no such weights"):
        InlineClient(EngineConfig(), files(), executor=InlineExecutor(lambda: Moody("bad")))
    assert threading.active_count() == before


class Box:
    """A mailbox that hands out letters one batch at a time and stops when none is left."""

    def __init__(self, *batches) -> None:
        self._batches = list(batches)
        self.sent: list = []
        self.waits: list[float] = []

    def send(self, letter) -> None:
        self.sent.append(letter)

    def receive(self, timeout: float):
        self.waits.append(timeout)
        if timeout == 0.0:  # busy: no mail
            return []
        return list(self._batches.pop(0)) if self._batches else [Stop()]


def test_process_loop(core):
    box = Box([Add((request("a"),)), Call(1, "stats"), Call(2, "nonsense")], [Abort(("a",))])
    run(core, box, beat=5.0)
    replies = {letter.call_id: letter for letter in box.sent if isinstance(letter, Reply)}
    assert replies[1].error is None and "nonsense" in replies[2].error.message
    news = [letter for letter in box.sent if isinstance(letter, News)]
    assert tuple(t for n in news for d in n.deltas for t in d.tokens) == naive(request("a"), SHAPE).tokens
    assert news[0].busy and not news[-1].busy
    assert box.waits[0] == 5.0 and box.waits[-1] == 5.0  # idle: asleep until mail comes
    assert set(box.waits) == {0.0, 5.0}  # busy: never waits


def test_an_idle_core_gives_memory_back_once(core):
    box = Box([], [], [Add((request("a"),))], [], [], [Add((request("b"),))], [])
    asleep: list[int] = []
    run(core, box, beat=5.0, rest=lambda: asleep.append(len(box._batches)))
    assert asleep == [3, 0]  # not before there was work, and not again before there is more


def test_failures_are_typed():
    letter = failure(Fault("broken", hint="mend it", field="f"))
    assert (letter.kind, letter.message, letter.hint, letter.field) == ("Fault", "broken", "mend it", "f")
    assert "KeyError" in failure(KeyError("x")).message
