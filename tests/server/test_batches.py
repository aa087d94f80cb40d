"""/v1/batches on the scripted engine: the status machine, files in OpenAI's format, restarts, tenants."""

from __future__ import annotations

import asyncio
import json

import pytest

from octavo.config.engine import EngineConfig
from octavo.config.files import FilesConfig
from octavo.config.serve import ServeConfig
from octavo.core.errors import EngineDead, Fault
from octavo.server.app import ROUTES
from octavo.server.quota import Limits, Quota
from tests.server.asgi import Call, ask
from tests.server.fake_engine import MODEL, parrot
from tests.server.test_files import upload

BATCHES = "/v1/batches"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def request(n: int, url: str = TEXT, **body) -> dict:
    given = (
        {"prompt": f"hello {n}"} if url == TEXT else {"messages": [{"role": "user", "content": f"the {n}"}]}
    )
    body = {"model": MODEL, "max_tokens": 8, **given, **body}
    return {"custom_id": f"r{n}", "method": "POST", "url": url, "body": body}


def jsonl(*rows) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


class Client:
    def __init__(self, house, key: str = "") -> None:
        self.house = house
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def ask(self, method: str, path: str, body=None, **more):
        return await ask(self.house.app, method, path, body, headers=self.headers, **more)

    async def start(self, *rows, endpoint: str = TEXT, **more):
        """The reply to a new batch of these lines."""
        file = (await upload(self.house, jsonl(*rows), headers=self.headers)).json()
        body = {"input_file_id": file["id"], "endpoint": endpoint, "completion_window": "24h", **more}
        return await self.ask("POST", BATCHES, body)

    async def get(self, id: str) -> dict:
        return (await self.ask("GET", f"{BATCHES}/{id}")).json()

    async def content(self, id: str | None) -> list[dict]:
        if id is None:
            return []
        data = (await self.ask("GET", f"/v1/files/{id}/content")).content
        return [json.loads(line) for line in data.splitlines()]

    async def both(self, batch: dict) -> tuple[list[dict], list[dict]]:
        return await self.content(batch["output_file_id"]), await self.content(batch["error_file_id"])

    async def finished(self, *rows, **more) -> dict:
        made = (await self.start(*rows, **more)).json()
        await self.house.service.batches.idle()
        return await self.get(made["id"])


@pytest.fixture
def houses(open_house, tmp_path):
    def make(say=parrot, **settings):
        serve = ServeConfig(api_key=settings.pop("keys", ()), **settings.pop("limits", {}))
        config = FilesConfig(files_dir=str(tmp_path / "files"), **settings)
        return open_house(say=say, config=EngineConfig(files=config, serve=serve))

    return make


@pytest.mark.parametrize("url", [TEXT, CHAT])
async def test_a_batch_answers_as_the_route_does(houses, url):
    house = houses()
    client = Client(house)
    made = await client.start(*(request(n, url) for n in range(20)), endpoint=url, metadata={"job": "x"})
    assert made.status == 200 and made.json()["status"] == "validating" and made.json()["object"] == "batch"
    await house.service.batches.idle()
    batch = await client.get(made.json()["id"])
    assert batch["status"] == "completed" and batch["metadata"] == {"job": "x"}
    assert batch["request_counts"] == {"total": 20, "completed": 20, "failed": 0}
    assert batch["created_at"] <= batch["in_progress_at"] <= batch["finalizing_at"] <= batch["completed_at"]
    assert batch["error_file_id"] is None and batch["errors"] is None
    lines = await client.content(batch["output_file_id"])
    assert [line["custom_id"] for line in lines] == [f"r{n}" for n in range(20)]  # in the input's order
    tokens = 0
    for n, line in enumerate(lines):
        live = (await client.ask("POST", url, request(n, url)["body"])).json()
        body = line["response"]["body"]
        assert line["response"]["status_code"] == 200 and line["error"] is None
        assert body["choices"] == live["choices"] and body["object"] == live["object"]
        assert body["usage"]["completion_tokens"] == live["usage"]["completion_tokens"]
        tokens += live["usage"]["total_tokens"]
    assert batch["usage"]["total_tokens"] == tokens
    file = (await client.ask("GET", f"/v1/files/{batch['output_file_id']}")).json()
    assert file["purpose"] == "batch_output"
    assert not list((house.service.files.path / "batches").glob("*.jsonl"))
    held = house.service.files.quota.held("")
    listed = (await client.ask("GET", "/v1/files")).json()["data"]
    assert held == sum(one["bytes"] for one in listed)


HI = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    "url,body",
    [
        ("/v1/responses", {"input": "hello", "max_output_tokens": 8}),
        ("/v1/messages", {"messages": HI, "max_tokens": 8}),
        ("/invocations", {"messages": HI, "max_tokens": 8}),
    ],
)
async def test_a_batch_in_another_dialect(houses, url, body):
    house = houses()
    client = Client(house)
    row = {"custom_id": "a", "method": "POST", "url": url, "body": {"model": MODEL, **body}}
    batch = await client.finished(row, {**row, "custom_id": "b"}, endpoint=url)
    assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    live = (await client.ask("POST", url, row["body"])).json()
    for line in await client.content(batch["output_file_id"]):
        told = line["response"]["body"]
        assert told.keys() == live.keys()
        for name in {"output", "content", "choices"} & told.keys():
            assert [kind(one) for one in told[name]] == [kind(one) for one in live[name]]
    spent = (
        live["usage"].get("total_tokens") or live["usage"]["input_tokens"] + live["usage"]["output_tokens"]
    )
    assert batch["usage"]["total_tokens"] == 2 * spent
    assert all(one.patient for one in house.engine.submitted[:2]) and not house.engine.submitted[2].patient


@pytest.mark.parametrize("wrong", [{"model": "other"}, {"model": MODEL, "temperature": -1}])
@pytest.mark.parametrize(
    "url,body",
    [
        (TEXT, {"prompt": "hello"}),
        ("/v1/responses", {"input": "hello", "max_output_tokens": 8}),
        ("/v1/messages", {"messages": HI, "max_tokens": 8}),
    ],
)
async def test_a_line_is_refused_as_its_route_refuses(houses, url, body, wrong):
    client = Client(houses())
    row = {"custom_id": "a", "method": "POST", "url": url, "body": {**body, **wrong}}
    batch = await client.finished(row, endpoint=url)
    (line,) = await client.content(batch["error_file_id"])
    live = await client.ask("POST", url, row["body"])
    told, said = line["response"]["body"], live.json()
    assert line["response"]["status_code"] == live.status >= 400
    assert told["error"] == said["error"] and told.keys() == said.keys()
    if "request_id" in said:
        assert told["request_id"] == line["response"]["request_id"]


def kind(part: dict) -> dict:
    """Without the id that each answer has of its own."""
    return {name: value for name, value in part.items() if name != "id"}


async def test_batches_come_after_live_requests(houses):
    house = houses()
    await Client(house).finished(request(1))
    await Client(house).ask("POST", TEXT, request(1)["body"])
    assert [one.patient for one in house.engine.submitted] == [True, False]


async def test_errors_are_in_a_file_of_their_own(houses):
    client = Client(houses())
    rows = [request(0), request(1, temperature=9), request(2, model="gpt-9"), request(3)]
    batch = await client.finished(*rows)
    good, bad = await client.both(batch)
    assert [line["custom_id"] for line in good] == ["r0", "r3"]
    assert [(line["custom_id"], line["response"]["status_code"]) for line in bad] == [
        ("r1", 400),
        ("r2", 404),
    ]
    assert bad[0]["response"]["body"]["error"]["param"] == "temperature"


@pytest.mark.parametrize(
    "rows,code,line",
    [
        ([], "empty_file", None),
        ([request(0), b"{broken"], "invalid_json_line", 2),
        ([request(0), request(0)], "duplicate_custom_id", 2),
        ([request(0), request(1, CHAT)], "mismatched_endpoint", 2),
        ([request(0, stream=True)], "invalid_request", 1),
        ([{"custom_id": "a"}], "invalid_request", 1),
        ([request(n) for n in range(6)], "request_limit_exceeded", None),
        ([request(0, prompt="x" * 5000)], "line_too_long", 1),
    ],
)
async def test_a_file_that_is_no_batch_fails_with_its_lines(open_house, tmp_path, rows, code, line):
    files = FilesConfig(files_dir=str(tmp_path / "files"), max_batch_requests=5)
    house = open_house(config=EngineConfig(files=files, serve=ServeConfig(max_body_bytes=4096)))
    batch = await Client(house).finished(*(rows or [b""]))
    assert batch["status"] == "failed" and batch["failed_at"]
    (error,) = batch["errors"]["data"]
    assert error["code"] == code and error["line"] == line and error["message"]
    assert not house.engine.submitted and batch["output_file_id"] is None


async def test_what_cannot_be_created(houses):
    house = houses()
    client = Client(house)
    for endpoint in ("/v1/files", "/health", "", "/v1/chat/completions/"):
        reply = await client.start(request(0), endpoint=endpoint)
        assert reply.status == 400 and reply.error["param"] == "endpoint" and TEXT in reply.error["message"]
    for more, field in (
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": "file-1"}, "input_file_id"),
        ({"metadata": {"a": "x" * 600}}, "metadata"),
        ({"metadata": {f"k{n}": "" for n in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after"),
    ):
        reply = await client.start(request(0), **more)
        assert reply.status == 400 and reply.error["param"] == field
    done = await client.finished(request(0), output_expires_after={"anchor": "created_at", "seconds": 3600})
    file = (await client.ask("GET", f"/v1/files/{done['output_file_id']}")).json()
    assert file["expires_at"] == file["created_at"] + 3600
    body = {"input_file_id": done["output_file_id"], "endpoint": TEXT, "completion_window": "24h"}
    assert (await client.ask("POST", BATCHES, body)).error[
        "param"
    ] == "input_file_id"  # an output is no input
    assert (await client.ask("GET", f"{BATCHES}/batch_1")).status == 404


def stop_after(house, count: int) -> None:
    """Rows get no further token once more requests than that have come."""
    usual = house.engine.say

    def say(request) -> str:
        if len(house.engine.submitted) > count:
            house.engine.hold = 0
        return usual(request)

    house.engine.say = say


async def stopped(house, rows: int) -> None:
    while house.engine.hold is None or len(house.engine.open) < rows:
        await asyncio.sleep(0)


async def begun(house, rows: int = 4) -> None:
    while len(house.engine.open) < rows:
        await asyncio.sleep(0)


async def test_cancel_keeps_what_is_answered(houses):
    house = houses(batch_rows=4)
    client = Client(house)
    stop_after(house, 12)
    made = (await client.start(*(request(n) for n in range(40)))).json()
    await stopped(house, 4)
    assert (await client.get(made["id"]))["status"] == "in_progress"
    busy = await client.ask("DELETE", f"/v1/files/{made['input_file_id']}")
    assert busy.status == 400 and "not finished" in busy.error["message"]
    cancelled = (await client.ask("POST", f"{BATCHES}/{made['id']}/cancel")).json()
    assert cancelled["status"] == "cancelling" and cancelled["cancelling_at"]
    await house.service.batches.idle()
    batch = await client.get(made["id"])
    assert batch["status"] == "cancelled" and batch["cancelled_at"] and not house.engine.open
    good, bad = await client.both(batch)
    assert good and len(good) == batch["request_counts"]["completed"]
    assert {line["error"]["code"] for line in bad} == {"batch_cancelled"}
    names = [line["custom_id"] for line in (*good, *bad)]
    assert sorted(names) == sorted(f"r{n}" for n in range(40))
    assert (await client.ask("POST", f"{BATCHES}/{made['id']}/cancel")).json()["status"] == "cancelled"
    assert (await client.ask("DELETE", f"/v1/files/{made['input_file_id']}")).status == 200
    house.engine.say, house.engine.hold = parrot, None
    done = await client.finished(request(0), request(1))
    assert done["status"] == "completed"
    assert (await client.ask("POST", f"{BATCHES}/{done['id']}/cancel")).status == 400


async def test_a_restart_goes_on_and_answers_each_once(houses):
    rows = [request(n) for n in range(60)]
    first = houses(batch_rows=5)
    client = Client(first)
    stop_after(first, 25)
    made = (await client.start(*rows)).json()
    await stopped(first, 5)
    await first.service.batches.close()  # what a kill leaves is tried in tests/e2e
    (journal,) = (first.service.files.path / "batches").glob("*.jsonl")
    done = len(journal.read_bytes().splitlines())
    with journal.open("ab") as file:
        file.write(b'{"id": "batch_req_0000')  # as a killed process leaves it
    second = houses()
    second.service.batches.start()
    client = Client(second)
    await second.service.batches.idle()
    batch = await client.get(made["id"])
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 60, "completed": 60, "failed": 0}
    lines = await client.content(batch["output_file_id"])
    assert [line["custom_id"] for line in lines] == [f"r{n}" for n in range(60)]
    assert len(second.engine.submitted) == 60 - done and 20 < done <= 25  # nothing was asked twice
    assert (await client.ask("GET", BATCHES)).json()["data"] == [batch]


async def test_a_batch_expires_with_what_it_has(houses):
    house = houses(batch_rows=4)
    client = Client(house)
    stop_after(house, 10)
    made = (await client.start(*(request(n) for n in range(20)))).json()
    await stopped(house, 4)
    await house.service.batches.close()
    later = houses()
    clock = later.service.files.clock
    later.service.files.clock = lambda: clock() + 86401 * 10**9
    later.engine.hold = 0
    later.service.batches.start()
    await later.service.batches.idle()
    client = Client(later)
    batch = await client.get(made["id"])
    assert batch["status"] == "expired" and batch["expired_at"]
    good, bad = await client.both(batch)
    assert (
        good and {line["error"]["code"] for line in bad} == {"batch_expired"} and len(good) + len(bad) == 20
    )
    counts = batch["request_counts"]
    assert counts == {"total": 20, "completed": len(good), "failed": len(bad)}


async def test_a_full_store_ends_a_batch_and_keeps_its_answers(houses):
    house = houses(max_files_bytes=20_000)
    client = Client(house)
    batch = await client.finished(*(request(n) for n in range(60)))
    assert batch["status"] == "failed" and "together" in batch["errors"]["data"][0]["message"]
    good = await client.content(batch["output_file_id"])
    assert 0 < len(good) == batch["request_counts"]["completed"] < 60
    assert (await upload(house, b"x")).status == 413  # until files are deleted
    for one in (await client.ask("GET", "/v1/files")).json()["data"]:
        await client.ask("DELETE", f"/v1/files/{one['id']}")
    assert house.service.files.quota.held("") == 0
    assert (await client.finished(request(0)))["status"] == "completed"


async def test_a_busy_engine_is_asked_again(houses):
    house = houses()
    client = Client(house)
    naps: list[float] = []

    async def sleep(seconds: float) -> None:
        naps.append(seconds)
        house.engine.broken, house.engine.hold = None, None

    house.service.batches.dispatch._sleep = sleep
    house.engine.broken, house.engine.hold = EngineDead("it was started again"), -1
    batch = await client.finished(request(0))
    assert batch["request_counts"]["completed"] == 1 and naps == [5.0]
    house.engine.broken, house.engine.hold = Fault("broken"), -1  # no use in asking this one again
    batch = await client.finished(request(0))
    assert batch["request_counts"]["failed"] == 1 and len(naps) == 1
    (line,) = await client.content(batch["error_file_id"])
    assert line["response"]["status_code"] == 500


async def test_a_dead_engine_ends_no_batch(houses):
    """Its requests are not answered with errors: the next server asks them."""
    house = houses()
    client = Client(house)

    async def sleep(seconds: float) -> None:
        house.engine.sick = "gone for good"

    house.service.batches.dispatch._sleep = sleep
    house.engine.broken, house.engine.hold = EngineDead("gone"), -1
    batch, other = await client.finished(request(0), request(1)), await client.finished(request(2))
    assert batch["status"] == other["status"] == "in_progress" and batch["request_counts"]["failed"] == 0
    assert (await client.ask("POST", f"{BATCHES}/{other['id']}/cancel")).status == 200
    await house.service.batches.idle()
    assert (await client.get(other["id"]))["status"] == "cancelled"
    await house.service.batches.close()
    second = houses()
    second.service.batches.start()
    await second.service.batches.idle()
    batch = await Client(second).get(batch["id"])
    assert batch["status"] == "completed" and batch["request_counts"]["completed"] == 2


async def test_live_requests_do_not_queue_behind_batches(houses):
    house = houses(batch_rows=4)
    client = Client(house)
    house.engine.hold = 0
    made = (await client.start(*(request(n) for n in range(20)))).json()
    await begun(house)
    await asyncio.sleep(0)
    assert len(house.engine.open) == 4 and house.service.gate.open == 0  # no place of the queue is taken
    call = Call(house.app, "POST", TEXT, request(99)["body"])
    await begun(house, 5)
    house.engine.hold = None
    house.engine.go.set()
    assert await call.started() == 200
    assert [part async for part in call.parts()]
    await call.ended()
    await house.service.batches.idle()
    assert (await client.get(made["id"]))["status"] == "completed"


async def test_tenants_do_not_see_each_other(houses):
    house = houses(keys=("one", "two"))
    mine, other = Client(house, "one"), Client(house, "two")
    batch = await mine.finished(request(0))
    assert (await other.ask("GET", f"{BATCHES}/{batch['id']}")).status == 404
    assert (await other.ask("POST", f"{BATCHES}/{batch['id']}/cancel")).status == 404
    assert (await other.ask("GET", BATCHES)).json()["data"] == []
    body = {"input_file_id": batch["input_file_id"], "endpoint": TEXT, "completion_window": "24h"}
    assert (await other.ask("POST", BATCHES, body)).error["param"] == "input_file_id"
    assert (await other.ask("GET", f"/v1/files/{batch['output_file_id']}/content")).status == 404
    live = await mine.ask("POST", TEXT, request(0)["body"])
    assert live.status == 200
    first, second = house.engine.submitted
    assert first.salt == second.salt != ""  # a batch reads its own tenant's prefix cache


async def test_a_key_pays_for_its_batches(houses):
    house = houses(keys=("one", "two"))
    naps: list[float] = []
    house.service.ring.find("one").quota = Quota(Limits(tokens_per_minute=60), lambda: sum(naps))

    async def sleep(seconds: float) -> None:
        if not naps:  # its time comes with this nap
            live = await Client(house, "one").ask("POST", TEXT, request(0)["body"])
            assert live.status == 429  # what the batch spent is spent for all its key does
            assert (await Client(house, "two").ask("POST", TEXT, request(0)["body"])).status == 200
        naps.append(seconds)

    house.service.batches.dispatch._sleep = sleep
    batch = await Client(house, "one").finished(*(request(n) for n in range(12)))
    assert batch["request_counts"]["completed"] == 12  # it waits, it does not fail
    assert batch["usage"]["total_tokens"] > 60 and sum(naps) >= 1


async def test_a_batch_may_use_what_its_key_may(houses, tmp_path):
    file = tmp_path / "keys.yaml"
    file.write_text("[{key: one, models: [other]}]")
    client = Client(houses(limits={"api_key_file": str(file)}), "one")
    batch = await client.finished(request(0))
    (line,) = await client.content(batch["error_file_id"])
    assert line["response"]["status_code"] == 404


async def test_batches_of_a_withdrawn_key_wait(houses):
    first = houses(batch_rows=4, keys=("one", "two"))
    stop_after(first, 9)
    made = (await Client(first, "one").start(*(request(n) for n in range(20)))).json()
    await stopped(first, 4)
    await first.service.batches.close()
    for keys in (("two",), ()):  # nor does a server without keys go on with it
        second = houses(keys=keys)
        second.service.batches.start()
        await second.service.batches.idle()
        assert not second.engine.submitted
        await second.service.batches.close()
    third = houses(keys=("one",))
    third.service.batches.start()
    await third.service.batches.idle()
    assert (await Client(third, "one").get(made["id"]))["request_counts"]["completed"] == 20


async def test_lists_turn_pages(houses):
    client = Client(houses())
    ids = [(await client.finished(request(n)))["id"] for n in range(5)][::-1]
    page = (await client.ask("GET", BATCHES, query="limit=2")).json()
    assert [one["id"] for one in page["data"]] == ids[:2] and page["has_more"]
    page = (await client.ask("GET", BATCHES, query=f"limit=9&after={ids[1]}")).json()
    assert [one["id"] for one in page["data"]] == ids[2:] and not page["has_more"]
    assert (await client.ask("GET", BATCHES, query="limit=0")).error["param"] == "limit"


def test_the_table_is_the_routes(house):
    marked = {entry.path for entry in ROUTES if entry.batch}
    assert set(house.service.batches.dispatch.endpoints) == marked >= {CHAT, TEXT}
