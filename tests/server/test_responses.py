"""The Responses API over scripted answers: told whole and streamed, kept, gone on with, stopped."""

from __future__ import annotations

import asyncio
import json

import openai
import pydantic
import pytest

from octavo.config.engine import EngineConfig
from octavo.config.serve import ServeConfig
from octavo.core.errors import EngineDead, NotFound, Overloaded
from octavo.server.responses.store import Record, Store
from tests.server.asgi import Call, ask, heard, told
from tests.server.fake_engine import CONTEXT, MODEL
from tests.server.test_tools import CALL, LLAMA, TEMPLATE, client_of, prompt_of
from tests.unit.front.test_speech import HARMONY, HERMES, THINKING

PATH = "/v1/responses"
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
GO = {"type": "function", "name": "go"}


def body(**more):
    return {"model": MODEL, "input": "hello", "tools": [WEATHER, GO], **more}


@pytest.fixture
def house_that(open_house):
    """A house whose model says a text; settings of the server beside it."""

    def make(text, template=TEMPLATE, context=4096, **serve):
        say = text if callable(text) else lambda request: text
        return open_house(say, EngineConfig(serve=ServeConfig(**serve)), template=template, context=context)

    return make


def steady(reply):
    """Without what differs from one time to the next: ids and times."""
    if isinstance(reply, dict):
        odd = {"id", "created_at", "completed_at", "call_id", "item_id"}
        return {key: steady(value) for key, value in reply.items() if key not in odd}
    return [steady(one) for one in reply] if isinstance(reply, list) else reply


def folded(events):
    """The items a client puts together from deltas alone; and that every part of the order holds."""
    items, text, begun = [], "", None
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    for event in events[2:-1]:
        kind = event["type"].removeprefix("response.")
        assert event["output_index"] == len(items)
        if kind == "output_item.added":
            assert begun is None and event["item"]["status"] == "in_progress"
            begun, text = event["item"], ""
        elif kind == "output_item.done":
            item = event["item"]
            assert item["id"] == begun["id"] and item["status"] in ("completed", "incomplete")
            assert text == (item["arguments"] if "arguments" in item else item["content"][0]["text"])
            items.append(item)
            begun = None
        else:
            assert event["item_id"] == begun["id"]
            text += event.get("delta", "")
            if kind in ("output_text.done", "reasoning_text.done"):
                assert event["text"] == text
            if kind == "function_call_arguments.done":
                assert (event["arguments"], event["name"]) == (text, begun["name"])
    assert events[-1]["response"]["output"] == items and begun is None
    return items


def said(items):
    """Text, thought and calls of an answer."""
    out = {"message": [], "reasoning": [], "function_call": []}
    for item in items:
        if item["type"] == "function_call":
            out[item["type"]].append((item["name"], json.loads(item["arguments"])))
        else:
            out[item["type"]].append(item["content"][0]["text"])
    return "".join(out["message"]), "".join(out["reasoning"]), out["function_call"]


CASES = [
    ({}, HERMES, ("Let me see.", "", [CALL, ("go", {})])),
    ({}, THINKING, ("Let me see.", "Which city?", [CALL, ("go", {})])),
    ({"tool_call_parser": "gpt_oss"}, HARMONY, ("", "Which city?", [CALL])),
    ({"tool_call_parser": "llama3_json"}, LLAMA, ("", "", [CALL])),
    ({}, "<think>hm</think>Only wörds. 🦜", ("Only wörds. 🦜", "hm", [])),
    ({}, "<think>for ever", ("", "for ever", [])),
    ({}, "", ("", "", [])),
]


@pytest.mark.parametrize("serve, says, message", CASES)
async def test_whole_and_streamed_answers_are_the_same(house_that, serve, says, message):
    """The engine sends token by token, and a token is about a byte: every cut there is."""
    house = house_that(says, **serve)
    whole = (await ask(house.app, "POST", PATH, body())).json()
    assert said(whole["output"]) == message and whole["status"] == "completed"
    events = await told(house.app, PATH, body())
    assert events[-1]["type"] == "response.completed"
    assert said(folded(events)) == message
    assert steady(events[-1]["response"]) == steady(whole)
    assert whole["usage"]["total_tokens"] == whole["usage"]["input_tokens"] + whole["usage"]["output_tokens"]
    if message[1] and not serve:
        details = whole["usage"]["output_tokens_details"]
        assert 0 < details["reasoning_tokens"] < whole["usage"]["output_tokens"]
    assert house.service.gate.open == 0 and not house.engine.open


async def test_an_answer_that_was_cut_off_is_incomplete(house_that):
    house = house_that(HERMES)
    for most, kind in ((4, "message"), (60, "function_call")):
        whole = (await ask(house.app, "POST", PATH, body(max_output_tokens=most))).json()
        events = await told(house.app, PATH, body(max_output_tokens=most))
        assert events[-1]["type"] == "response.incomplete"
        assert whole["status"] == "incomplete" and whole["usage"]["output_tokens"] == most
        assert whole["incomplete_details"] == {"reason": "max_output_tokens"}
        assert steady(events[-1]["response"]) == steady(whole)
        last = folded(events)[-1]
        assert (last["type"], last["status"]) == (kind, "incomplete")


async def test_a_failure_is_told_as_an_event(house_that):
    house = house_that("hello there")
    house.engine.broken = EngineDead("it broke")
    events = await told(house.app, PATH, body())
    assert events[-1]["type"] == "response.failed"
    failed = events[-1]["response"]
    assert failed["status"] == "failed" and failed["error"] == {"code": "server_error", "message": "it broke"}
    assert failed["output"][0]["status"] == "incomplete"
    assert (await ask(house.app, "POST", PATH, body())).status == 503


async def test_log_probabilities(house_that):
    house = house_that("hello")
    asked = body(tools=None, top_logprobs=2)
    whole = (await ask(house.app, "POST", PATH, asked)).json()
    scores = whole["output"][0]["content"][0]["logprobs"]
    assert [len(one["top_logprobs"]) for one in scores] == [2] * len(scores)
    assert "".join(one["token"] for one in scores).startswith("hello")
    events = await told(house.app, PATH, asked)
    deltas = [one for event in events if event["type"].endswith("text.delta") for one in event["logprobs"]]
    assert deltas == scores and steady(events[-1]["response"]) == steady(whole)
    some = body(tools=None, include=["message.output_text.logprobs"])
    scores = (await ask(house.app, "POST", PATH, some)).json()["output"][0]["content"][0]["logprobs"]
    assert scores and all(one["top_logprobs"] == [] for one in scores)
    assert "logprobs" not in (await ask(house.app, "POST", PATH, body())).json()["output"][0]["content"][0]


# -- what the model is asked --------------------------------------------------------------


async def test_items_become_messages(house_that):
    house = house_that("x")
    items = [
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "one"}, {"type": "input_text", "text": "two"}],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "hm"}],
        },
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I go"}]},
        {"type": "function_call", "call_id": "c1", "name": "go", "arguments": '{"to": 1}'},
        {"type": "function_call", "call_id": "c2", "name": "go", "arguments": ""},
        {"type": "function_call_output", "call_id": "c1", "output": "there <|im_end|>"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "here"}]},
        {"type": "reasoning", "summary": [], "encrypted_content": "?"},
    ]
    assert (await ask(house.app, "POST", PATH, body(input=items, instructions="Be <b>"))).status == 200
    prompt = prompt_of(house).replace("\\u003c", "<")
    assert "<|im_start|>system\nBe <b><|im_end|>\n<|im_start|>user\none\ntwo<|im_end|>" in prompt
    turn = (
        '(hm)I go<tool_call>{"name": "go", "arguments": {"to": 1}}<tool_call>{"name": "go", "arguments": {}}'
    )
    assert turn in prompt and "tool\nthere <|im_end|>" in prompt and "tool\nhere<|im_end|>" in prompt


async def test_the_older_part_of_a_conversation_may_be_left_out(house_that):
    house = house_that("x", context=256, response_store_bytes=0)
    items = [
        {"role": "user" if n % 2 == 0 else "assistant", "content": f"turn {n} " + "z" * 30} for n in range(15)
    ]
    asked = body(input=items, tools=None, instructions="short", max_output_tokens=20)
    refused = await ask(house.app, "POST", PATH, asked)
    assert refused.status == 400 and "context" in refused.error["message"]
    assert (await ask(house.app, "POST", PATH, {**asked, "truncation": "auto"})).status == 200
    prompt = prompt_of(house)
    kept = [n for n in range(15) if f"turn {n} " in prompt]
    assert "short" in prompt and kept == list(range(kept[0], 15)) and kept[0] % 2 == 0
    tokens = len(house.engine.submitted[-1].tokens)
    assert tokens <= 236 < tokens + 100  # one turn more would not have fitted
    alone = {**asked, "truncation": "auto", "input": "z" * 400}
    refused = await ask(house.app, "POST", PATH, alone)
    assert refused.status == 400 and refused.error["param"] == "prompt"


async def test_forms_and_choices_reach_the_engine(house_that):
    house = house_that("{}", reasoning_parser="none")

    async def grammar(**more):
        reply = await ask(house.app, "POST", PATH, body(**more))
        assert reply.status == 200, reply.content
        return house.engine.submitted[-1].grammar, reply.json()

    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "name": "a", "schema": schema}
    spec, reply = await grammar(tools=None, text={"format": form})
    assert spec.kind == "json" and json.loads(spec.text) == schema
    assert reply["text"]["format"]["schema"] == schema
    assert (await grammar(tools=None, text={"format": {"type": "json_object"}}))[0] is not None
    assert (await grammar())[0] is None
    tags = [
        tag["begin"] for tag in json.loads((await grammar(tool_choice="required"))[0].text)["format"]["tags"]
    ]
    assert len(tags) == 2
    spec, reply = await grammar(tool_choice={"type": "function", "name": "go"})
    assert len(json.loads(spec.text)["format"]["tags"]) == 1
    assert reply["tool_choice"] == {"type": "function", "name": "go"}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "go"}]}
    assert len(json.loads((await grammar(tool_choice=allowed))[0].text)["format"]["tags"]) == 1
    assert "get_weather" not in prompt_of(house)


async def test_reasoning_effort_reaches_the_template(house_that):
    house = house_that("x")
    for effort, off in (("none", True), ("high", False)):
        reply = await ask(house.app, "POST", PATH, body(reasoning={"effort": effort, "summary": "auto"}))
        assert reply.json()["reasoning"]["effort"] == effort
        assert ("<think></think>" in prompt_of(house)) is off


# -- the store ----------------------------------------------------------------------------


async def test_a_conversation_goes_on_from_a_stored_response(house_that):
    answers = [THINKING, "Sunny."]
    house = house_that(lambda request: answers.pop(0))
    first = (await ask(house.app, "POST", PATH, body(instructions="A.", metadata={"k": "v"}))).json()
    assert (await ask(house.app, "GET", f"{PATH}/{first['id']}")).json() == first
    assert first["store"] and first["metadata"] == {"k": "v"} and first["instructions"] == "A."
    calls = [item for item in first["output"] if item["type"] == "function_call"]
    results = [
        {"type": "function_call_output", "call_id": one["call_id"], "output": "sunny"} for one in calls
    ]
    second = (
        await ask(house.app, "POST", PATH, body(input=results, previous_response_id=first["id"]))
    ).json()
    assert said(second["output"])[0] == "Sunny." and second["previous_response_id"] == first["id"]
    prompt = prompt_of(house)
    assert "user\nhello" in prompt and "(Which city?)Let me see.<tool_call>" in prompt.replace("\\u003c", "<")
    assert "A." not in prompt and prompt.count("tool\nsunny") == 2
    listed = (await ask(house.app, "GET", f"{PATH}/{second['id']}/input_items", query="order=asc")).json()
    kinds = [item["type"] for item in listed["data"]]
    assert kinds == ["message", "reasoning", "message", *["function_call"] * 2, *["function_call_output"] * 2]
    assert listed["first_id"] == listed["data"][0]["id"] and not listed["has_more"]
    pages, after = [], ""
    while True:
        query = f"limit=3{after}"
        page = (await ask(house.app, "GET", f"{PATH}/{second['id']}/input_items", query=query)).json()
        pages += page["data"]
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert pages == listed["data"][::-1]


async def test_streamed_and_incomplete_responses_are_kept_too(house_that):
    house = house_that("hello there")
    for more in ({}, {"max_output_tokens": 3}):
        last = (await told(house.app, PATH, body(**more)))[-1]["response"]
        assert (await ask(house.app, "GET", f"{PATH}/{last['id']}")).json() == last


async def test_nothing_is_kept_that_should_not_be(house_that):
    house = house_that("hello")
    reply = (await ask(house.app, "POST", PATH, body(store=False))).json()
    assert reply["store"] is False and house.service.responses.used("") == 0
    gone = await ask(house.app, "GET", f"{PATH}/{reply['id']}")
    assert gone.status == 404 and gone.error["param"] == "response_id" and "86400 s" in gone.error["message"]
    kept = (await ask(house.app, "POST", PATH, body())).json()
    assert (await ask(house.app, "DELETE", f"{PATH}/{kept['id']}")).json()["deleted"] is True
    assert (await ask(house.app, "GET", f"{PATH}/{kept['id']}")).status == 404
    after = await ask(house.app, "POST", PATH, body(previous_response_id=kept["id"]))
    assert after.status == 404 and after.error["param"] == "previous_response_id"
    house = house_that("hello", response_store_bytes=0)
    assert (await ask(house.app, "POST", PATH, body())).json()["store"] is False
    for more in ({"store": True}, {"background": True}):
        refused = await ask(house.app, "POST", PATH, body(**more))
        assert refused.status == 400 and "--response-store-bytes" in refused.error["message"]


async def test_the_store_is_bounded(house_that):
    """The oldest go first, and what is kept never takes more than is allowed."""
    house = house_that("hello", response_store_bytes=20_000)
    ids = []
    for _ in range(12):
        ids.append((await ask(house.app, "POST", PATH, body(input="x" * 2000, tools=None))).json()["id"])
        assert 0 < house.service.responses.used("") <= 20_000
    found = [(await ask(house.app, "GET", f"{PATH}/{id}")).status == 200 for id in ids]
    assert found[-1] and not found[0] and sorted(found) == found


def record_of(store, name, *, size=0, tenant="", done=True, background=False):
    one = Record(name, tenant, (), store.now, background=background)
    one.say(b"x" * (size // 2), done=done)
    return one


def test_what_is_too_old_goes_for_every_key():
    now = [0.0]
    store = Store(1 << 20, 10.0, lambda: now[0])
    store.add(record_of(store, "a", tenant="one"))
    now[0] = 5.0
    store.add(record_of(store, "b", tenant="two"))
    now[0] = 10.5
    assert store.get("two", "b").id == "b" and store.used("one") == 0
    with pytest.raises(NotFound, match="10 s"):
        store.get("one", "a")
    now[0] = 15.5
    store.tidy()
    assert store.used("two") == 0


def test_what_is_being_made_is_kept_and_counted():
    store = Store(10_000, 10.0, lambda: 0.0)
    store.add(record_of(store, "old", size=4000))
    busy = record_of(store, "busy", done=False, background=True)
    busy.events = []
    store.add(busy)
    for number in range(100):
        busy.tell(number, b"y" * 100)
    assert store.used("") > 10_000
    with pytest.raises(Overloaded, match="still being made"):
        store.add(record_of(store, "next", done=False, background=True))
    store.add(record_of(store, "small"))  # what is done has no place either
    assert store.get("", "busy") is busy and store.used("") == busy.size
    store.add(record_of(store, "other", tenant="two", size=4000))
    assert store.get("two", "other")
    busy.say(b"", done=True)
    store.tidy()
    assert store.used("") == 0


async def test_keys_do_not_see_each_others_responses(house_that):
    house = house_that("hello", api_key=("one", "two"))
    mine, theirs = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
    id = (await ask(house.app, "POST", PATH, body(), headers=mine)).json()["id"]
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
        assert (await ask(house.app, method, f"{PATH}/{id}{path}", headers=theirs)).status == 404
    assert (await ask(house.app, "GET", f"{PATH}/{id}", headers=mine)).status == 200


# -- in the background --------------------------------------------------------------------


async def under_way(house):
    while not house.engine.open:
        await asyncio.sleep(0)


async def test_in_the_background(house_that):
    house = house_that("hello there")
    house.engine.hold = 3
    begun = (await ask(house.app, "POST", PATH, body(background=True))).json()
    assert begun["status"] == "queued" and begun["background"] and begun["output"] == []
    assert house.service.traffic.open == 1  # a server that leaves waits for it
    path = f"{PATH}/{begun['id']}"
    record = house.service.responses.get("", begun["id"])
    await under_way(house)
    assert (await ask(house.app, "GET", path)).json()["status"] == "in_progress"
    after = await ask(house.app, "POST", PATH, body(previous_response_id=begun["id"]))
    assert after.status == 400 and "not complete" in after.error["message"]
    house.engine.go.set()
    await record.task
    done = (await ask(house.app, "GET", path)).json()
    assert done["status"] == "completed" and said(done["output"])[0] == "hello there"
    assert steady({**done, "background": False}) == steady(
        (await ask(house.app, "POST", PATH, body())).json()
    )
    assert (await ask(house.app, "POST", f"{path}/cancel")).json() == done  # too late
    streamed = await ask(house.app, "GET", path, query="stream=true")
    assert streamed.status == 400 and streamed.error["param"] == "stream"
    assert house.service.gate.open == 0 and house.service.traffic.open == 0


@pytest.mark.parametrize("method, path", [("POST", "/cancel"), ("DELETE", "")])
async def test_what_runs_in_the_background_can_be_stopped(house_that, method, path):
    house = house_that("hello there")
    house.engine.hold = 3
    begun = (await ask(house.app, "POST", PATH, body(background=True))).json()
    await under_way(house)
    reply = await ask(house.app, method, f"{PATH}/{begun['id']}{path}")
    assert reply.status == 200
    if path:
        assert reply.json()["status"] == "cancelled"
        assert (await ask(house.app, "GET", f"{PATH}/{begun['id']}")).json()["status"] == "cancelled"
    assert house.service.gate.open == 0 and house.service.traffic.open == 0 and not house.engine.open


async def test_stopped_before_it_began(house_that):
    house = house_that("hello there")
    call = Call(house.app, "POST", PATH, body(background=True))
    assert await call.started() == 200
    (record,) = house.service.responses._shelves[""].records.values()
    record.task.cancel()
    await asyncio.gather(record.task, return_exceptions=True)
    assert json.loads(record.reply)["status"] == "cancelled"
    assert house.service.gate.open == 0 and house.service.traffic.open == 0


async def test_a_background_stream_can_be_left_and_taken_up_again(house_that):
    house = house_that("hello there")
    house.engine.hold = 4
    call = Call(house.app, "POST", PATH, body(background=True, stream=True))
    await call.started()
    seen = []
    async for event in call.events():
        if isinstance(event, str):
            seen.append(json.loads(event.split("\ndata: ")[1]))
        if len(seen) == 6:
            break
    assert [one["type"] for one in seen[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    call.leave()
    await call.ended()
    path = f"{PATH}/{seen[0]['response']['id']}"
    rest = Call(house.app, "GET", path, query="stream=true&starting_after=5")
    await rest.started()
    house.engine.go.set()
    blocks = b"".join([part async for part in rest.parts()]).decode().split("\n\n")[:-1]
    seen += [json.loads(block.split("\ndata: ")[1]) for block in blocks]
    assert [one["sequence_number"] for one in seen] == list(range(len(seen)))
    assert seen[-1]["type"] == "response.completed"
    again = await heard(Call(house.app, "GET", path, query="stream=true"))
    assert again == seen
    assert seen[-1]["response"] == (await ask(house.app, "GET", path)).json()


async def test_a_background_failure_is_kept(house_that):
    house = house_that("hello there")
    house.engine.broken = EngineDead("it broke")
    begun = (await ask(house.app, "POST", PATH, body(background=True))).json()
    await house.service.responses.get("", begun["id"]).task
    reply = (await ask(house.app, "GET", f"{PATH}/{begun['id']}")).json()
    assert reply["status"] == "failed" and reply["error"]["message"] == "it broke"
    assert house.service.gate.open == 0


# -- what is refused ----------------------------------------------------------------------

RESULT = {"type": "function_call_output", "call_id": "c9", "output": "x"}


@pytest.mark.parametrize(
    "more, field, says",
    [
        ({"input": None}, "input", "null"),
        ({"input": []}, "input", "empty"),
        ({"input": [5]}, "input", "int"),
        ({"input": [{}]}, "input[0].type", "message"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type", "function_call"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]", "previous_response_id"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content", "text"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}], "instructions": "a"},
            "input[0].content[0]",
            "input_image",
        ),
        ({"input": [{"role": "a<b", "content": "x"}]}, "input[0].role", "odd"),
        ({"input": [RESULT]}, "input[0].call_id", "no function_call 'c9'"),
        ({"input": [{"type": "function_call", "name": "go"}]}, "input[0].call_id", "256"),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "go", "arguments": "{"}]},
            "input[0].arguments",
            "not JSON",
        ),
        ({"input": [{"type": "reasoning", "content": "x"}]}, "input[0]", "no texts"),
        ({"input": [{"role": "user", "content": "x"}] * 5000}, "input", "4096"),
        ({"tools": [{"type": "web_search"}]}, "tools", "web_search"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name", "tools[0].name is not"),
        ({"tools": [{**GO, "parameters": {"type": "array"}}]}, "tools[0].parameters", "object"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tool_choice": {"type": "function", "name": "fly"}}, "tool_choice", "get_weather, go"),
        (
            {"tool_choice": {"type": "allowed_tools", "tools": [{"name": "fly"}]}},
            "tool_choice",
            "get_weather, go",
        ),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice", "file_search"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text", "schema"),
        (
            {"text": {"format": {"type": "json_schema", "schema": {"not": {}}}}},
            "text.format",
            "uses not",
        ),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "instructions"),
        ({"reasoning": {"effort": "huge"}}, "reasoning", "huge"),
        ({"max_output_tokens": 0}, "max_output_tokens", "an integer from 1 to"),
        ({"max_output_tokens": 5000}, "max_output_tokens", "max_output_tokens is 5000"),
        ({"top_logprobs": 21}, "top_logprobs", "20"),
        ({"top_logprobs": -1}, "top_logprobs", "20"),
        ({"temperature": 3}, "temperature", "at most 2"),
        ({"metadata": {"k" * 65: "v"}}, "metadata", "64"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata", "16"),
        ({"metadata": {"k": 5}}, "metadata", "int"),
        ({"truncation": "some"}, "truncation", "some"),
        ({"background": True, "store": False}, "store", "needs store"),
        ({"conversation": "conv_1"}, "conversation", "previous_response_id"),
        ({"prompt": {"id": "p"}}, "prompt", "instructions"),
    ],
)
async def test_bad_requests_are_told_with_their_field(house_that, more, field, says):
    house = house_that("x")
    reply = await ask(house.app, "POST", PATH, body(**more))
    assert reply.status == 400 and reply.error["param"] == field, reply.content
    assert says in reply.error["message"] and not house.engine.submitted
    assert house.service.gate.open == 0


async def test_bad_queries(house_that):
    house = house_that("x")
    id = (await ask(house.app, "POST", PATH, body())).json()["id"]
    for query, field in (
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("limit=101", "limit"),
        ("after=x", "after"),
        ("order=up", "order"),
    ):
        reply = await ask(house.app, "GET", f"{PATH}/{id}/input_items", query=query)
        assert reply.status == 400 and reply.error["param"] == field
    reply = await ask(house.app, "POST", f"{PATH}/{id}/cancel")
    assert reply.status == 400 and "background" in reply.error["message"]


# -- the official client ------------------------------------------------------------------


async def test_the_official_client(house_that):
    answers = [THINKING, "<think>It is there.</think>Sunny.", '{"a": 3}', "x", "late"]
    house = house_that(lambda request: answers.pop(0))
    client = client_of(house)
    first = await client.responses.create(model=MODEL, input="hello", tools=[WEATHER, GO])
    calls = [item for item in first.output if item.type == "function_call"]
    assert [one.name for one in calls] == ["get_weather", "go"] and first.output_text == "Let me see."
    results = [{"type": "function_call_output", "call_id": one.call_id, "output": "sunny"} for one in calls]
    async with client.responses.stream(
        model=MODEL, input=results, previous_response_id=first.id, tools=[WEATHER, GO]
    ) as events:
        text = [event.delta async for event in events if event.type == "response.output_text.delta"]
        final = await events.get_final_response()
    assert "".join(text) == final.output_text == "Sunny." and final.output[0].type == "reasoning"

    class Answer(pydantic.BaseModel):
        a: int

    parsed = await client.responses.parse(model=MODEL, input="hello", text_format=Answer)
    assert parsed.output_parsed == Answer(a=3)
    got = await client.responses.retrieve(final.id)
    assert got.output_text == "Sunny." and got.usage.output_tokens > 0
    items = [item async for item in client.responses.input_items.list(final.id, limit=2, order="asc")]
    assert len(items) == 7 and items[0].content[0].text == "hello"
    await client.responses.delete(final.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(final.id)
    house.engine.hold = 0
    late = await client.responses.create(model=MODEL, input="hello", background=True)
    assert (await client.responses.cancel(late.id)).status == "cancelled"
    await client.close()


def test_the_context_is_small_enough_for_these_tests():
    assert CONTEXT == 256
