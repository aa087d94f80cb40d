"""use_beam_search over HTTP: on both routes, whole and streamed, and what it costs the engine."""

from __future__ import annotations

import asyncio

import pytest

from octavo.core.errors import EngineDead
from octavo.core.request import PositionLogprobs
from tests.server.asgi import Call, ask, stream
from tests.server.fake_engine import MODEL

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HI = [{"role": "user", "content": "hello"}]
BEAMS = {"use_beam_search": True, "n": 2, "max_tokens": 3, "ignore_eos": True}


def text(**more):
    return {"model": MODEL, "prompt": "hello", **BEAMS, **more}


@pytest.fixture
def lettered(open_house):
    """Whatever the beginning, "a" has -1.5 and "b" -0.25 (see FakeEngine._score)."""
    return open_house(lambda request: "a")


async def test_the_beams_are_the_answers(lettered):
    reply = (await ask(lettered.app, "POST", TEXT, text())).json()
    assert [choice["text"] for choice in reply["choices"]] == ["bbb", "bba"]
    assert [choice["index"] for choice in reply["choices"]] == [0, 1]
    assert {choice["finish_reason"] for choice in reply["choices"]} == {"length"}
    assert reply["usage"]["completion_tokens"] == 6
    asked = lettered.engine.submitted
    assert [len(one.tokens) for one in asked] == [1, 2, 2, 3, 3]
    for one in asked:
        assert one.sampling.max_tokens == 1 and one.sampling.logprobs == 4 and not one.skip_cache
    assert len({one.id for one in asked}) == 5


async def test_several_prompts_and_logprobs(lettered):
    asked = text(prompt=["hello", "the"], logprobs=2, return_token_ids=True, temperature=0)
    choices = (await ask(lettered.app, "POST", TEXT, asked)).json()["choices"]
    assert [choice["text"] for choice in choices] == ["bbb", "bba"] * 2
    last = choices[-1]["logprobs"]
    assert last["tokens"] == ["b", "b", "a"] and last["token_logprobs"] == [-0.25, -0.25, -1.5]
    assert last["top_logprobs"][0] == {"b": -0.25, "a": -1.5} and len(choices[-1]["token_ids"]) == 3


async def test_a_stream_says_the_same(lettered):
    for path, body in ((TEXT, text(logprobs=1)), (CHAT, {"model": MODEL, "messages": HI, **BEAMS})):
        whole = (await ask(lettered.app, "POST", path, body)).json()
        events = (await stream(lettered.app, path, {**body, "stream_options": {"include_usage": True}}))[:-1]
        said = ["", ""]
        for event in events[:-1]:
            for choice in event["choices"]:
                said[choice["index"]] += choice.get("text") or choice.get("delta", {}).get("content") or ""
        told = [one.get("text") or one["message"]["content"] for one in whole["choices"]]
        assert said == told == ["bbb", "bba"] and events[-1]["usage"] == whole["usage"]


async def test_an_end_of_text_ends_a_beam(open_house):
    """After any beginning a letter has -0.5, the end of text -1."""
    house = open_house()
    end = house.tokenizer.eos_token_ids[0]
    house.engine._score = lambda token, count: PositionLogprobs(97, -0.5, 1, (97, end), (-0.5, -1.0))
    reply = (await ask(house.app, "POST", TEXT, text(ignore_eos=False, length_penalty=0))).json()
    letter = house.tokenizer.decode([97])
    assert [(one["text"], one["finish_reason"]) for one in reply["choices"]] == [
        ("", "stop"),
        (letter, "stop"),
    ]
    long = (await ask(house.app, "POST", TEXT, text(ignore_eos=False, length_penalty=9.0))).json()
    assert (long["choices"][0]["text"], long["choices"][0]["finish_reason"]) == (letter * 3, "length")
    shown = text(
        ignore_eos=False, length_penalty=0, include_stop_str_in_output=True, skip_special_tokens=False
    )
    assert (await ask(house.app, "POST", TEXT, shown)).json()["choices"][0]["text"] == "<|im_end|>"


async def test_a_client_that_leaves_stops_the_search(lettered):
    lettered.engine.hold = 0
    call = Call(lettered.app, "POST", TEXT, text())
    while not lettered.engine.open:
        await asyncio.sleep(0)
    call.leave()
    await call.ended()
    await lettered.engine.idle.wait()
    assert lettered.service.gate.open == 0


async def test_a_failure_ends_all_of_it(lettered):
    lettered.engine.broken, lettered.engine.hold = EngineDead("it broke"), -1
    assert (await ask(lettered.app, "POST", TEXT, text())).status == 503
    assert lettered.service.gate.open == 0 and not lettered.engine.open


async def test_required_calls_are_refused(open_house):
    house = open_house(context=2048)
    tool = {"type": "function", "function": {"name": "go"}}
    body = {"model": MODEL, "messages": HI, "tools": [tool], "tool_choice": "required", **BEAMS}
    reply = await ask(house.app, "POST", CHAT, body)
    assert reply.status == 400 and reply.error["param"] == "use_beam_search", reply.content
    assert house.service.gate.open == 0
