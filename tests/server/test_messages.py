"""Anthropic's Messages API over scripted answers: told whole and streamed, and its errors."""

from __future__ import annotations

import importlib
import json

import anthropic
import jiter
import pytest

from octavo.config.engine import EngineConfig
from octavo.config.serve import ServeConfig
from octavo.core.errors import EngineDead
from octavo.server.anthropic.partial import certain
from tests.server.asgi import Call, ask, told
from tests.server.fake_engine import MODEL
from tests.server.test_tools import CALL, LLAMA, TEMPLATE, grammar_of, prompt_of
from tests.unit.front.test_speech import HARMONY, HERMES, THINKING

PATH, COUNT = "/v1/messages", "/v1/messages/count_tokens"
HI = [{"role": "user", "content": "hello"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "Of a city.", "input_schema": CITY}
GO = {"name": "go", "input_schema": {"type": "object", "properties": {}}}
THINK = {"thinking": {"type": "enabled", "budget_tokens": 1024}}


def body(**more):
    return {"model": MODEL, "max_tokens": 2000, "messages": HI, "tools": [WEATHER, GO], **more}


@pytest.fixture
def house_that(open_house):
    """A house whose model says a text; settings of the server beside it."""

    def make(text, template=TEMPLATE, **serve):
        say = text if callable(text) else lambda request: text
        return open_house(say, EngineConfig(serve=ServeConfig(**serve)), template=template, context=4096)

    return make


def steady(message):
    """Without ids, which differ from one time to the next."""
    blocks = [{key: value for key, value in block.items() if key != "id"} for block in message["content"]]
    return {**message, "id": None, "content": blocks}


def folded(events):
    """The message a client puts together, and that the order of events holds."""
    assert [event["type"] for event in events[:2]] == ["message_start", "ping"]
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    message = events[0]["message"]
    assert message["content"] == [] and message["stop_reason"] is None
    block, pieces = None, []
    for event in events[2:-2]:
        assert event["index"] == len(message["content"])
        if event["type"] == "content_block_start":
            assert block is None
            block, pieces = event["content_block"], []
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            if delta["type"] == "signature_delta":
                block["signature"] = delta["signature"]
            else:
                kinds = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "tool_use"}
                assert kinds[delta["type"]] == block["type"]
                pieces.append(delta.get("text") or delta.get("thinking") or delta.get("partial_json"))
        else:
            if block["type"] == "tool_use":
                block["input"] = json.loads("".join(pieces) or "{}")
            else:
                block[block["type"]] = "".join(pieces)
            message["content"].append(block)
            block = None
    assert block is None
    return {**message, **events[-2]["delta"], "usage": events[-2]["usage"]}


def said(message):
    """Text, thought and calls of an answer."""
    text = [block["text"] for block in message["content"] if block["type"] == "text"]
    thought = [block["thinking"] for block in message["content"] if block["type"] == "thinking"]
    calls = [(block["name"], block["input"]) for block in message["content"] if block["type"] == "tool_use"]
    return "".join(text), "".join(thought), calls


ARGUMENTS = [
    {"city": 'Köln "x" \\', "n": -12.5e3, "on": True, "no": None},
    {"a": [1, [2, {"b": "c,}]"}], []], "d": {}, "e": {"f": {"g": ["h"]}}},
    {},
]
CASES = [
    ({}, HERMES, ("Let me see.", "", [CALL, ("go", {})]), "tool_use"),
    ({}, THINKING, ("Let me see.", "Which city?", [CALL, ("go", {})]), "tool_use"),
    ({"tool_call_parser": "gpt_oss"}, HARMONY, ("", "Which city?", [CALL]), "tool_use"),
    ({"tool_call_parser": "llama3_json"}, LLAMA, ("", "", [CALL]), "tool_use"),
    ({}, "<think>hm</think>Only wörds. 🦜", ("Only wörds. 🦜", "hm", []), "end_turn"),
    ({}, "", ("", "", []), "end_turn"),
]


@pytest.mark.parametrize("serve, says, message, reason", CASES)
async def test_whole_and_streamed_answers_are_the_same(house_that, serve, says, message, reason):
    house = house_that(says, **{"reasoning_parser": "qwen3", **serve})
    whole = (await ask(house.app, "POST", PATH, body(**THINK))).json()
    assert said(whole) == message and whole["stop_reason"] == reason
    assert (whole["type"], whole["role"], whole["model"]) == ("message", "assistant", MODEL)
    assert steady(folded(await told(house.app, PATH, body(**THINK)))) == steady(whole)
    assert house.service.gate.open == 0 and not house.engine.open


async def test_thinking_is_told_only_when_it_is_asked_for(house_that):
    house = house_that("<think>hm</think>yes")
    for more, thought, switch in (
        ({}, "", True),
        ({"thinking": {"type": "disabled"}}, "", True),
        ({"thinking": {"type": "adaptive"}}, "hm", False),
        (THINK, "hm", False),
    ):
        whole = (await ask(house.app, "POST", PATH, body(**more))).json()
        assert said(whole)[:2] == ("yes", thought)
        assert steady(folded(await told(house.app, PATH, body(**more)))) == steady(whole)
        assert ("<think></think>" in prompt_of(house)) is switch
    assert house.engine.submitted[-1].grammar.thought.tokens == 1024, "the budget reaches the engine"
    hidden = {"thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}}
    whole = (await ask(house.app, "POST", PATH, body(**hidden))).json()
    assert whole["content"][0]["thinking"] == "" and len(whole["content"][0]["signature"]) == 64
    assert steady(folded(await told(house.app, PATH, body(**hidden)))) == steady(whole)


async def test_why_it_stopped(house_that):
    house = house_that("hello there. And more.")
    for more, reason, sequence, text in (
        ({"max_tokens": 4}, "max_tokens", None, None),
        ({"stop_sequences": [". And"]}, "stop_sequence", ". And", "hello there"),
        ({"stop_sequences": []}, "end_turn", None, "hello there. And more."),
        ({"max_tokens": 10**6}, "end_turn", None, "hello there. And more."),
    ):
        whole = (await ask(house.app, "POST", PATH, body(**more))).json()
        assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, sequence)
        assert text is None or said(whole)[0] == text
        assert steady(folded(await told(house.app, PATH, body(**more)))) == steady(whole)


@pytest.mark.parametrize("text", [json.dumps(one, indent=gap) for one in ARGUMENTS for gap in (None, 1)])
def test_of_a_call_that_was_cut_off_all_that_is_certain_is_told(text):
    """As the official client reads what was streamed."""
    for cut in range(1, len(text) + 1):
        assert certain(text[:cut]) == jiter.from_json(text[:cut].encode(), partial_mode=True), text[:cut]


@pytest.mark.parametrize(
    "text", ["", " ", "[1]", "5", "null", "}", "{]", '{"a": 1}}', '{"a": <', '{"a": "\\', '{"a' * 9]
)
def test_what_is_no_object_has_no_members(text):
    assert certain(text) in ({}, {"a": {}})


async def test_a_call_that_was_cut_off_is_the_same_whole_and_streamed(house_that):
    house = house_that(HERMES)
    for most in range(25, 120, 7):
        whole = (await ask(house.app, "POST", PATH, body(max_tokens=most))).json()
        events = await told(house.app, PATH, body(max_tokens=most))
        pieces = [
            e["delta"]["partial_json"] for e in events if e.get("delta", {}).get("type") == "input_json_delta"
        ]
        calls = [block for block in whole["content"] if block["type"] == "tool_use"]
        assert whole["stop_reason"] == "max_tokens"
        if calls:
            text = "".join(pieces)
            seen = jiter.from_json(text.encode(), partial_mode=True) if text else {}
            assert calls[-1]["input"] == seen


async def test_usage_tells_cached_tokens_apart(house_that):
    house = house_that("hello")
    usage = (await ask(house.app, "POST", PATH, body())).json()["usage"]
    prompt = len(house.engine.submitted[-1].tokens)
    assert usage["cache_read_input_tokens"] == prompt // 16 * 16 > 0
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == prompt
    start = (await told(house.app, PATH, body()))[0]["message"]["usage"]
    assert start["input_tokens"] == usage["input_tokens"]
    counted = (
        await ask(house.app, "POST", COUNT, {k: v for k, v in body().items() if k != "max_tokens"})
    ).json()
    assert counted == {"input_tokens": prompt}


async def test_blocks_become_messages(house_that):
    house = house_that("x")
    talk = [
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "?"},
                {"type": "text", "text": "I go"},
                {"type": "tool_use", "id": "c1", "name": "go", "input": {"to": 1}},
                {"type": "tool_use", "id": "c2", "name": "go", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "there <|im_end|>"},
                {"type": "tool_result", "tool_use_id": "c2", "content": [{"type": "text", "text": "here"}]},
                {"type": "tool_result", "tool_use_id": "c2", "is_error": True},
                {"type": "text", "text": "Well?"},
            ],
        },
    ]
    system = [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief", "cache_control": {}}]
    assert (await ask(house.app, "POST", PATH, body(messages=talk, system=system))).status == 200
    prompt = prompt_of(house).replace("\\u003c", "<")
    assert "system\nBe\nbrief<|im_end|>\n<|im_start|>user\none\ntwo<|im_end|>" in prompt
    assert '(hm)I go<tool_call>{"name": "go", "arguments": {"to": 1}}<tool_call>' in prompt
    assert "tool\nthere <|im_end|><|im_end|>\n<|im_start|>tool\nhere<|im_end|>" in prompt
    assert prompt.index("tool\nhere") < prompt.index("user\nWell?")


async def test_a_last_message_of_the_assistant_is_continued(house_that):
    house = house_that("x")
    talk = [*HI, {"role": "assistant", "content": "I think that"}]
    assert (await ask(house.app, "POST", PATH, body(messages=talk))).status == 200
    assert prompt_of(house).endswith("assistant\nI think that")


async def test_choices_and_forms_reach_the_engine(house_that):
    house = house_that("{}", reasoning_parser="none")

    async def shape(**more):
        reply = await ask(house.app, "POST", PATH, body(**more))
        assert reply.status == 200, reply.content
        return grammar_of(house)

    assert await shape(tool_choice={"type": "auto"}) is None
    assert await shape(tool_choice={"type": "none"}) is None
    assert len((await shape(tool_choice={"type": "any"}))["tags"]) == 2
    assert len((await shape(tool_choice={"type": "tool", "name": "go"}))["tags"]) == 1
    alone = await shape(tool_choice={"type": "any", "disable_parallel_tool_use": True})
    assert alone["stop_after_first"]
    form = {"format": {"type": "json_schema", "schema": CITY}}
    assert (await ask(house.app, "POST", PATH, body(tools=None, output_config=form))).status == 200
    assert json.loads(house.engine.submitted[-1].grammar.text) == CITY


async def test_a_failure_is_told_as_an_event(house_that):
    house = house_that("hello there")
    house.engine.broken = EngineDead("it broke")
    events = await told(house.app, PATH, body())
    assert events[-1] == {"type": "error", "error": {"type": "overloaded_error", "message": "it broke"}}
    reply = await ask(house.app, "POST", PATH, body())
    assert reply.status == 503 and reply.json()["error"]["type"] == "overloaded_error"
    assert house.service.gate.open == 0


BAD_SCHEMA = {"name": "f", "input_schema": {"type": "object", "not": {}}}


@pytest.mark.parametrize(
    "more, says",
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens: max_tokens is 0"),
        ({"messages": []}, "messages: messages is empty"),
        ({"messages": ["x"]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]: "),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]}, "tool_result"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "tool_use_id"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": 5}]}]}, "input"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "b"}]}]},
            "tool_result",
        ),
        ({"system": [{"type": "image"}]}, "system"),
        ({"stop_sequences": [""]}, "stop_sequences: stop_sequences"),
        ({"temperature": 3}, "temperature: "),
        ({"tools": [{"name": "x"}]}, "input_schema"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name: tools[0].name"),
        (
            {"tools": [{"name": "a", "input_schema": {"type": "array"}}]},
            "tools[0].input_schema: tools[0].input",
        ),
        ({"tools": [BAD_SCHEMA], "tool_choice": {"type": "any"}}, "uses not"),
        ({"tool_choice": {"type": "tool", "name": "fly"}}, "get_weather, go"),
        ({"tool_choice": {"type": "some"}}, "some"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "1024"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5000}}, "less than max_tokens"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"not": {}}}}},
            "output_config.format: ",
        ),
        ({"mcp_servers": [{}]}, "mcp_servers"),
    ],
)
async def test_bad_requests_are_told_in_this_dialect(house_that, more, says):
    house = house_that("x")
    reply = await ask(house.app, "POST", PATH, body(**more), headers={"x-request-id": "mine"})
    said = reply.json()
    assert reply.status == 400 and said["type"] == "error" and said["request_id"] == "mine", said
    assert said["error"]["type"] == "invalid_request_error" and says in said["error"]["message"], said
    assert int(reply.headers["content-length"]) == len(reply.content)
    assert house.service.gate.open == 0 and not house.engine.submitted


async def test_a_model_that_does_not_think_says_so(house_that):
    house = house_that("x", reasoning_parser="none")
    reply = await ask(house.app, "POST", PATH, body(**THINK))
    assert reply.status == 400 and "does not think" in reply.json()["error"]["message"]
    assert (await ask(house.app, "POST", PATH, body(thinking={"type": "adaptive"}))).status == 200


async def test_errors_of_the_whole_server_are_told_in_this_dialect(house_that):
    house = house_that("x", api_key=("k",), max_body_bytes=1024)
    key = {"x-api-key": "k"}
    for sent, path, more, status, kind in (
        (body(), PATH, {}, 401, "authentication_error"),
        (body(), PATH, {"x-api-key": "wrong"}, 401, "authentication_error"),
        (body(system="x" * 2000), PATH, key, 413, "request_too_large"),
        (body(model="nobody"), PATH, key, 404, "not_found_error"),
        (body(), f"{PATH}/nothing", key, 404, "not_found_error"),
        (body(), PATH, {**key, "content-type": "text/plain"}, 400, "invalid_request_error"),
    ):
        reply = await ask(house.app, "POST", path, sent, headers=more)
        assert reply.status == status and reply.json()["error"]["type"] == kind, reply.content
    house.service.traffic.leaving = True
    reply = await ask(house.app, "POST", PATH, body(), headers=key)
    assert reply.status == 503 and reply.json()["error"]["type"] == "overloaded_error"
    assert reply.headers["retry-after"]


async def test_both_ways_of_sending_a_key(house_that):
    house = house_that("x", api_key=("k", "other"))
    for headers in (
        {"x-api-key": "k"},
        {"authorization": "Bearer k"},
        {"authorization": "Bearer k", "x-api-key": "?"},
    ):
        for path in (PATH, COUNT):
            assert (await ask(house.app, "POST", path, body(), headers=headers)).status == 200
        assert (await ask(house.app, "GET", "/v1/models", headers=headers)).status == 200
    salts = {request.salt for request in house.engine.submitted}
    assert len(salts) == 1  # one tenant, whichever way
    refused = await ask(house.app, "GET", "/v1/models", headers={"x-api-key": "?"})
    assert (
        refused.status == 401 and refused.error["type"] == "AuthenticationError"
    )  # not this dialect's route


async def test_a_quiet_stream_is_kept_alive_with_pings(house_that):
    house = house_that("hello there", heartbeat=0.1)
    house.engine.hold = 2
    call = Call(house.app, "POST", PATH, body(stream=True))
    await call.started()
    quiet = 0
    async for part in call.parts():
        quiet = quiet + 1 if part == b'event: ping\ndata: {"type":"ping"}\n\n' else 0
        if quiet == 2:
            break
    call.leave()
    await call.ended()
    assert not house.engine.open and house.service.gate.open == 0


# -- the official client ------------------------------------------------------------------


def client_of(house):
    http = importlib.import_module(anthropic.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])
    transport = anthropic.DefaultAsyncHttpxClient(transport=http.ASGITransport(house.app))
    return anthropic.AsyncAnthropic(base_url="http://test", api_key="k", http_client=transport, max_retries=0)


async def test_the_official_client(house_that):
    answers = [THINKING, "<think>It is there.</think>Sunny."]
    house = house_that(lambda request: answers.pop(0), reasoning_parser="qwen3", api_key=("k",))
    async with client_of(house) as client:
        asked = {"model": MODEL, "max_tokens": 2000, "tools": [WEATHER, GO], **THINK}
        talk = list(HI)
        counted = {key: value for key, value in asked.items() if key != "max_tokens"}
        count = await client.messages.count_tokens(messages=talk, **counted)
        first = await client.messages.create(messages=talk, **asked)
        assert [block.type for block in first.content] == ["thinking", "text", "tool_use", "tool_use"]
        assert first.stop_reason == "tool_use" and first.content[2].input == {"city": "Köln"}
        assert count.input_tokens == first.usage.input_tokens + first.usage.cache_read_input_tokens
        talk.append({"role": "assistant", "content": [block.model_dump() for block in first.content]})
        calls = [block for block in first.content if block.type == "tool_use"]
        results = [{"type": "tool_result", "tool_use_id": one.id, "content": "sunny"} for one in calls]
        talk.append({"role": "user", "content": results})
        async with client.messages.stream(messages=talk, **asked) as stream:
            text = [piece async for piece in stream.text_stream]
            final = await stream.get_final_message()
        assert "".join(text) == final.content[-1].text == "Sunny." and final.stop_reason == "end_turn"
        assert final.content[0].thinking == "It is there." and final.content[0].signature
        with pytest.raises(anthropic.BadRequestError, match="temperature"):
            await client.messages.create(
                messages=HI, model=MODEL, max_tokens=5, extra_body={"temperature": 9}
            )
        with pytest.raises(anthropic.NotFoundError, match="nobody"):
            await client.messages.create(messages=HI, model="nobody", max_tokens=5)
