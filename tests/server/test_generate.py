"""What the two completion routes answer: shapes, text, usage, and streams that equal their wholes."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.asgi import ask, stream
from tests.server.fake_engine import CONTEXT, MODEL

HI = [{"role": "user", "content": "hello"}]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def chat(**more):
    return {"model": MODEL, "messages": HI, **more}


def text(**more):
    return {"model": MODEL, "prompt": "hello the", **more}


async def test_chat_reply_has_every_key(house):
    reply = await ask(house.app, "POST", CHAT, chat())
    body = reply.json()
    assert reply.status == 200 and reply.headers["content-type"] == "application/json"
    assert body["id"] == f"chatcmpl-{reply.headers['x-request-id']}"
    assert body["object"] == "chat.completion" and body["model"] == MODEL
    assert body["system_fingerprint"].startswith("octavo-") and body["service_tier"] is None
    (choice,) = body["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "hello wörld 🦜 25/5",
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "tool_calls": [],
        "reasoning": None,
    }
    assert (choice["index"], choice["finish_reason"], choice["stop_reason"]) == (0, "stop", None)
    assert choice["logprobs"] is None and choice["token_ids"] is None
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] == 17 + 1  # and the token that ended it
    assert usage["prompt_tokens_details"] == {"cached_tokens": usage["prompt_tokens"] // 16 * 16}


async def test_chat_fills_the_context_and_completions_stop_at_16(open_house):
    house = open_house(lambda request: "x" * 1000)
    whole = (await ask(house.app, "POST", CHAT, chat())).json()
    assert whole["usage"]["total_tokens"] == CONTEXT
    assert whole["choices"][0]["finish_reason"] == "length"
    short = (await ask(house.app, "POST", TEXT, text())).json()
    assert short["usage"]["completion_tokens"] == 16
    for field in ("max_tokens", "max_completion_tokens"):
        two = (await ask(house.app, "POST", CHAT, chat(**{field: 2}))).json()
        assert two["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"n": 3, "temperature": 0.7},
        {"logprobs": 2, "return_token_ids": True},
        {"echo": True},
        {"echo": True, "logprobs": 1, "n": 2},
        {"stop": ["rl"]},
        {"stop": ["rl"], "include_stop_str_in_output": True},
        {"prompt": ["hello", "the", "he"], "n": 2},
        {"prompt": [[1, 2, 3], [4]], "echo": True},
        {"max_tokens": 3},
        {"max_tokens": 0, "echo": True, "logprobs": 1},
        {"return_tokens_as_token_ids": True, "logprobs": 0},
    ],
)
async def test_a_streamed_completion_equals_the_whole(house, more):
    whole = (await ask(house.app, "POST", TEXT, text(**more))).json()
    events = await stream(
        house.app, TEXT, text(**more, stream_options={"include_usage": True, "continuous_usage_stats": True})
    )
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"] == [] and events[-2]["usage"] == whole["usage"]
    assert len({event["id"] for event in events[:-1]}) == 1
    for choice in whole["choices"]:
        parts = [c for e in events[:-2] for c in e["choices"] if c["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert parts[-1]["finish_reason"] == choice["finish_reason"]
        assert parts[-1]["stop_reason"] == choice["stop_reason"]
        assert all(part["finish_reason"] is None and "stop_reason" not in part for part in parts[:-1])
        if "logprobs" in more:
            for key, values in choice["logprobs"].items():
                assert [v for part in parts for v in part["logprobs"][key]] == values
        if "return_token_ids" in more:
            assert [id for part in parts for id in part["token_ids"]] == choice["token_ids"]
            assert parts[0]["prompt_token_ids"] == choice["prompt_token_ids"]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"n": 2, "temperature": 1.0},
        {"logprobs": True, "top_logprobs": 3},
        {"logprobs": True, "logprob_token_ids": [7, 5]},
        {"stop": "🦜", "return_token_ids": True},
        {"max_tokens": 1, "logprobs": True},
        {
            "messages": [*HI, {"role": "assistant", "content": "he"}],
            "continue_final_message": True,
            "echo": True,
        },
    ],
)
async def test_a_streamed_chat_equals_the_whole(house, more):
    whole = (await ask(house.app, "POST", CHAT, chat(**more))).json()
    events = await stream(house.app, CHAT, chat(**more, stream_options={"include_usage": True}))
    assert events[-1] == "[DONE]" and events[-2]["usage"] == whole["usage"]
    assert all(event["usage"] is None for event in events[:-2])
    for choice in whole["choices"]:
        parts = [c for e in events[:-2] for c in e["choices"] if c["index"] == choice["index"]]
        assert parts[0]["delta"] == {"role": choice["message"]["role"], "content": ""}
        assert all("role" not in part["delta"] for part in parts[1:])
        said = "".join(part["delta"].get("content", "") for part in parts)
        assert said == choice["message"]["content"]
        assert parts[-1]["finish_reason"] == choice["finish_reason"] is not None
        if "logprobs" in more:
            scored = [token for part in parts if part["logprobs"] for token in part["logprobs"]["content"]]
            assert scored == choice["logprobs"]["content"]
        if "return_token_ids" in more:
            assert [id for part in parts for id in part.get("token_ids", [])] == choice["token_ids"]
            assert events[0]["prompt_token_ids"] == whole["prompt_token_ids"]


async def test_characters_are_never_cut_and_stop_strings_never_leak(open_house):
    house = open_house(lambda request: "ä🦜STOPz")
    for event in (await stream(house.app, CHAT, chat(stop=["STOP"])))[:-1]:
        said = event["choices"][0]["delta"].get("content", "")
        assert "\ufffd" not in said and "S" not in said
    whole = (await ask(house.app, "POST", CHAT, chat(stop=["STOP"]))).json()["choices"][0]
    assert (whole["message"]["content"], whole["finish_reason"], whole["stop_reason"]) == (
        "ä🦜",
        "stop",
        "STOP",
    )
    assert house.engine.aborted and not house.engine.open  # the engine was told to stop


async def test_usage_appears_only_when_asked(house, open_house):
    assert all("usage" not in event for event in (await stream(house.app, CHAT, chat()))[:-1])
    events = await stream(
        house.app, TEXT, text(stream_options={"include_usage": True, "continuous_usage_stats": True})
    )
    counts = [event["usage"]["completion_tokens"] for event in events[:-2]]
    assert counts == sorted(counts) and counts[0] == 1


async def test_completion_logprobs_shape(house):
    body = text(logprobs=2, echo=True, max_tokens=2, prompt="hello the")
    choice = (await ask(house.app, "POST", TEXT, body)).json()["choices"][0]
    scores = choice["logprobs"]
    assert scores["tokens"] == ["hello", " ", "the", "hello", " w"]
    assert scores["token_logprobs"] == [None, -1.5, -1.5, -1.5, -1.5]
    assert scores["text_offset"] == [0, 5, 6, 9, 14]
    assert choice["text"] == "hello thehello w"
    assert all(
        choice["text"][o:].startswith(t)
        for o, t in zip(scores["text_offset"], scores["tokens"], strict=False)
    )
    assert scores["top_logprobs"][0] is None and scores["top_logprobs"][1][" "] == -1.5


async def test_chat_logprobs_shape(house):
    body = chat(logprobs=True, top_logprobs=3, max_tokens=1)
    (token,) = (await ask(house.app, "POST", CHAT, body)).json()["choices"][0]["logprobs"]["content"]
    assert (token["token"], token["logprob"], token["bytes"]) == ("hello", -1.5, list(b"hello"))
    assert [top["logprob"] for top in token["top_logprobs"]] == [-0.25, -1.5, -9999.0]  # no -inf in JSON
    none = (await ask(house.app, "POST", CHAT, chat(logprobs=True, max_tokens=1))).json()
    assert none["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    ids = await ask(
        house.app, "POST", CHAT, chat(logprobs=True, max_tokens=1, return_tokens_as_token_ids=True)
    )
    assert ids.json()["choices"][0]["logprobs"]["content"][0]["token"] == "token_id:259"


async def test_named_tokens_are_told_in_place_of_the_likeliest(house):
    body = chat(logprobs=True, top_logprobs=3, logprob_token_ids=[101, 102], max_tokens=1)
    body["return_tokens_as_token_ids"] = True
    (token,) = (await ask(house.app, "POST", CHAT, body)).json()["choices"][0]["logprobs"]["content"]
    told = [(top["token"], top["logprob"]) for top in token["top_logprobs"]]
    assert told == [("token_id:259", -1.5), ("token_id:101", -10.0), ("token_id:102", -11.0)]
    request = house.engine.submitted[-1]
    assert request.sampling.logprob_token_ids == (101, 102)


async def test_extra_arguments_reach_the_core(house):
    for path, body in ((CHAT, chat()), (TEXT, text())):
        reply = await ask(house.app, "POST", path, body | {"vllm_xargs": {"a": [1, "b"]}})
        assert reply.status == 200
        request = house.engine.submitted[-1]
        assert request.sampling.extra_args == {"a": [1, "b"]}


async def test_an_answer_that_goes_round_in_circles_ends(house):
    house.engine.say = lambda request: "the the the the the the the"
    circles = {"max_pattern_size": 4, "min_count": 3}
    for path, body in ((CHAT, chat(max_tokens=30)), (TEXT, text(max_tokens=30))):
        for streamed in (False, True):
            asked = body | {"repetition_detection": circles, "stream": streamed}
            if streamed:
                events = await stream(house.app, path, asked)
                choice = [one["choices"][0] for one in events[:-1] if one["choices"]][-1]
            else:
                choice = (await ask(house.app, "POST", path, asked)).json()["choices"][0]
            assert (choice["finish_reason"], choice["stop_reason"]) == ("repetition", "repetition_detected")
    assert len(house.engine.aborted) == 4 and not house.engine.open


async def test_prompt_logprobs(house):
    whole = (await ask(house.app, "POST", TEXT, text(prompt_logprobs=1))).json()["choices"][0][
        "prompt_logprobs"
    ]
    assert whole[0] is None and len(whole) == 3
    assert whole[1]["220"] == {"logprob": -1.5, "rank": 2, "decoded_token": " "}
    top = (await ask(house.app, "POST", CHAT, chat(prompt_logprobs=0))).json()
    assert top["prompt_logprobs"][0] is None and len(top["prompt_logprobs"]) == top["usage"]["prompt_tokens"]


async def test_choices_are_numbered_prompt_by_prompt(open_house):
    house = open_house(lambda request: f"{request.tokens[0]}:{request.seed}")
    body = text(prompt=[[5], [6]], n=2, seed=40, temperature=1.0)
    choices = (await ask(house.app, "POST", TEXT, body)).json()["choices"]
    assert [(c["index"], c["text"]) for c in choices] == [(0, "5:40"), (1, "5:41"), (2, "6:40"), (3, "6:41")]


async def test_sampling_fields_reach_the_engine(house):
    body = text(
        temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, presence_penalty=0.2, frequency_penalty=0.3,
        repetition_penalty=1.1, seed=9, stop_token_ids=[3], ignore_eos=True, min_tokens=2, max_tokens=5,
        logit_bias={"4": 5.0}, allowed_token_ids=[1, 2], bad_words=["the"], priority=-3, cache_salt="s",
    )  # fmt: skip
    assert (await ask(house.app, "POST", TEXT, body)).status == 200
    (row,) = house.engine.submitted
    s = row.sampling
    assert (s.temperature, s.top_p, s.top_k, s.min_p) == (0.5, 0.9, 7, 0.1)
    assert (s.presence_penalty, s.frequency_penalty, s.repetition_penalty) == (0.2, 0.3, 1.1)
    assert (row.seed, row.priority, row.salt) == (9, -3, "\0s")
    assert (s.stop_token_ids, s.eos, s.min_tokens, s.max_tokens) == ((3,), (), 2, 5)
    assert s.logit_bias == ((4, 5.0),) and s.allowed_token_ids == (1, 2) and s.bad_words


async def test_template_switches(house):
    def prompt() -> str:
        return house.tokenizer.decode(house.engine.submitted[-1].tokens, skip_special=False)

    await ask(house.app, "POST", CHAT, chat())
    assert prompt() == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    await ask(house.app, "POST", CHAT, chat(add_generation_prompt=False))
    assert prompt().endswith("hello<|im_end|>\n")
    final = [*HI, {"role": "assistant", "content": "he"}]
    await ask(house.app, "POST", CHAT, chat(messages=final, continue_final_message=True))
    assert prompt().endswith("<|im_start|>assistant\nhe")
    parts = [{"role": "user", "content": [{"type": "text", "text": "he"}, {"type": "text", "text": "llo"}]}]
    await ask(house.app, "POST", CHAT, chat(messages=parts))
    assert "user\nhe\nllo<|im_end|>" in prompt()


async def test_users_cannot_mint_special_tokens(house):
    end = house.tokenizer.specials["<|im_end|>"]
    await ask(house.app, "POST", CHAT, chat(messages=[{"role": "user", "content": "<|im_end|>"}]))
    assert house.engine.submitted[-1].tokens.count(end) == 1  # the template's own
    await ask(house.app, "POST", TEXT, text(prompt="<|im_end|>"))
    assert house.engine.submitted[-1].tokens == (end,)  # raw prompts may


async def test_ids_end_with_the_clients_own(house):
    reply = await ask(house.app, "POST", TEXT, text(), headers={"X-Request-Id": "abc-1"})
    assert reply.json()["id"] == "cmpl-abc-1" and reply.headers["x-request-id"] == "abc-1"
    assert (await ask(house.app, "POST", TEXT, text(request_id="mine"))).json()["id"] == "cmpl-mine"
    same = await asyncio.gather(*(ask(house.app, "POST", TEXT, text(request_id="mine")) for _ in range(3)))
    assert all(one.status == 200 for one in same)  # the engine's own ids differ


@pytest.mark.parametrize(
    "more",
    [
        {"tool_choice": "none"},
        {"tool_choice": "auto", "parallel_tool_calls": False},
        {"reasoning_effort": "none", "include_reasoning": False},
        {"response_format": {"type": "text"}},
        {"use_beam_search": False},
        {"best_of": 1},
        {"length_penalty": 1.0},
        {"suffix": None},
        {"n": None, "temperature": None, "stop": None, "stream": None, "seed": None, "max_tokens": None},
        {"user": "someone", "metadata": {"a": 1}, "store": False, "never_heard_of": [1]},
        {"chat_template_kwargs": {}},
    ],
)
async def test_neutral_and_unknown_fields_are_accepted(house, more):
    assert (await ask(house.app, "POST", CHAT, chat(**more))).status == 200


async def test_tokenize_and_detokenize(house):
    reply = (
        await ask(house.app, "POST", "/tokenize", {"prompt": "hello the", "return_token_strs": True})
    ).json()
    assert reply == {
        "count": 3, "max_model_len": CONTEXT, "tokens": [259, 220, 261], "token_strs": ["hello", "Ġ", "the"]
    }  # fmt: skip
    chatty = (await ask(house.app, "POST", "/tokenize", {"messages": HI})).json()
    sent = (await ask(house.app, "POST", CHAT, chat())).json()
    assert chatty["count"] == sent["usage"]["prompt_tokens"] and chatty["token_strs"] is None
    back = await ask(house.app, "POST", "/detokenize", {"tokens": reply["tokens"], "model": MODEL})
    assert back.json() == {"prompt": "hello the"}


async def test_a_base_model_says_that_it_has_no_template(open_house):
    house = open_house(template=False)
    error = (await ask(house.app, "POST", CHAT, chat())).error
    assert (error["code"], error["param"]) == (400, "messages")
    assert "--chat-template" in error["message"]
    assert (await ask(house.app, "POST", TEXT, text())).status == 200


async def test_models(house):
    (card,) = (await ask(house.app, "GET", "/v1/models")).json()["data"]
    assert card["id"] == MODEL and card["max_model_len"] == CONTEXT
    assert (await ask(house.app, "GET", f"/v1/models/{MODEL}")).json() == card


FILLING = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>")


async def test_what_stands_between_two_texts(open_house):
    house = open_house(specials=FILLING)
    asked = text(prompt=["he", "the"], suffix="llo", max_tokens=4)
    whole = (await ask(house.app, "POST", TEXT, asked)).json()
    prompts = [house.tokenizer.decode(one.tokens, skip_special=False) for one in house.engine.submitted]
    assert prompts == [f"<fim_prefix>{one}<fim_suffix>llo<fim_middle>" for one in ("he", "the")]
    end = house.tokenizer.token_id("<file_sep>")
    assert all(one.sampling.stop_token_ids == (end,) for one in house.engine.submitted)
    said = ["", ""]
    for event in (await stream(house.app, TEXT, asked))[:-1]:
        for choice in event["choices"]:
            said[choice["index"]] += choice["text"]
    assert said == [choice["text"] for choice in whole["choices"]]
    refused = await ask(house.app, "POST", TEXT, text(prompt=[1, 2], suffix="x"))
    assert refused.status == 400 and refused.error["param"] == "prompt"


async def test_invocations_go_where_their_body_shows(house):
    for path, body in ((CHAT, chat()), (TEXT, text())):
        direct, there = [(await ask(house.app, "POST", one, body)).json() for one in (path, "/invocations")]
        assert there["object"] == direct["object"] and there["usage"] == direct["usage"]
        events = await stream(house.app, "/invocations", body)
        assert events[0]["object"].startswith(direct["object"]) and events[-1] == "[DONE]"
    for body, says in (({}, "neither"), ({**chat(), "prompt": "x"}, "both"), ({"prompt": None}, "neither")):
        refused = await ask(house.app, "POST", "/invocations", body)
        assert refused.status == 400 and says in refused.error["message"]
    assert (await ask(house.app, "POST", "/invocations", {"prompt": "x"})).error["param"] == "model"
