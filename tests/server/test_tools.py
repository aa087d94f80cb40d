"""Tools and reasoning over HTTP: scripted answers, each told whole and streamed."""

from __future__ import annotations

import importlib
import json

import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from octavo.config.engine import EngineConfig
from octavo.config.serve import ServeConfig
from tests.server.asgi import ask, stream
from tests.server.fake_engine import MODEL
from tests.unit.front.test_speech import HARMONY, HERMES, THINKING

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hello"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
GO = {"type": "function", "function": {"name": "go"}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
CALL = ("get_weather", {"city": "Köln"})
LLAMA = '{"name": "get_weather", "parameters": {"city": "Köln"}}'
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)


def body(**more):
    return {"model": MODEL, "messages": HI, "tools": [WEATHER, GO], **more}


@pytest.fixture
def house_that(open_house):
    """A house whose model says a text; settings of the server beside it."""

    def make(text, template=TEMPLATE, **serve):
        config = EngineConfig(serve=ServeConfig(**serve))
        return open_house(lambda request: text, config, template=template, context=4096)

    return make


def heard(message):
    calls = [
        (one["function"]["name"], json.loads(one["function"]["arguments"])) for one in message["tool_calls"]
    ]
    return message["content"], message["reasoning"], calls


def folded(events):
    """The message and finish reason of a stream's deltas, as a client puts them together."""
    message = {"content": None, "reasoning": None, "tool_calls": []}
    finish = None
    for event in events:
        for choice in event["choices"]:
            delta, finish = choice["delta"], choice["finish_reason"] or finish
            for key in ("content", "reasoning"):
                if delta.get(key):
                    message[key] = (message[key] or "") + delta[key]
            for piece in delta.get("tool_calls", []):
                if "id" in piece:
                    assert piece["index"] == len(message["tool_calls"]) and piece["type"] == "function"
                    message["tool_calls"].append(
                        {"function": {"name": piece["function"]["name"], "arguments": ""}}
                    )
                message["tool_calls"][piece["index"]]["function"]["arguments"] += piece["function"][
                    "arguments"
                ]
    return message, finish


CASES = [
    ({}, HERMES, ("Let me see.", None, [CALL, ("go", {})]), "tool_calls"),
    ({}, THINKING, ("Let me see.", "Which city?", [CALL, ("go", {})]), "tool_calls"),
    ({"tool_call_parser": "gpt_oss"}, HARMONY, (None, "Which city?", [CALL]), "tool_calls"),
    ({"tool_call_parser": "llama3_json"}, LLAMA, (None, None, [CALL]), "tool_calls"),
    ({"tool_call_parser": "pythonic"}, '[get_weather(city="Köln")]', (None, None, [CALL]), "tool_calls"),
    ({}, "<think>hm</think>Only words.", ("Only words.", "hm", []), "stop"),
    ({}, "<think>for ever", (None, "for ever", []), "stop"),
    ({"reasoning_parser": "none"}, "<think>hm</think>x", ("<think>hm</think>x", None, []), "stop"),
]


@pytest.mark.parametrize("serve, says, message, finish", CASES)
async def test_whole_and_streamed_answers_say_the_same(house_that, serve, says, message, finish):
    """The engine sends token by token, and a token is about a byte: every cut there is."""
    house = house_that(says, **serve)
    whole = (await ask(house.app, "POST", CHAT, body())).json()
    (choice,) = whole["choices"]
    assert heard(choice["message"]) == message and choice["finish_reason"] == finish
    events = await stream(house.app, CHAT, body(stream_options={"include_usage": True}))
    assert events[-1] == "[DONE]" and events[-2]["usage"] == whole["usage"]
    told, end = folded(events[:-2])
    assert heard(told) == message and end == finish
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    details = whole["usage"].get("completion_tokens_details")
    if message[1] and "tool_call_parser" not in serve:
        assert len(message[1]) <= details["reasoning_tokens"] + 2 < whole["usage"]["completion_tokens"]


async def test_the_choice_decides(house_that):
    house = house_that(HERMES)

    async def choice(**more):
        reply = (await ask(house.app, "POST", CHAT, body(**more))).json()["choices"][0]
        return heard(reply["message"]), reply["finish_reason"]

    assert await choice(tool_choice="none") == ((HERMES, None, []), "stop")
    assert await choice(parallel_tool_calls=False) == (("Let me see.", None, [CALL]), "tool_calls")
    assert await choice(tool_choice=NAMED) == (("Let me see.", None, [CALL]), "stop")
    assert (await choice(tool_choice="required"))[1] == "tool_calls"


async def test_special_tokens_are_read_where_they_mark_calls(house_that):
    """Harmony's own tokens are not in this vocabulary; one that is there stands for them."""
    says = "a<|im_start|>b"
    for parser, text in (("openai", says), ("hermes", "ab")):
        house = house_that(says, tool_call_parser=parser)
        reply = (await ask(house.app, "POST", CHAT, body())).json()["choices"][0]["message"]
        assert reply["content"] == text
        plain = (await ask(house.app, "POST", CHAT, {"model": MODEL, "messages": HI})).json()
        assert plain["choices"][0]["message"]["content"] == (text if parser == "openai" else "ab")


async def test_n_answers_are_read_apart(house_that):
    house = house_that(THINKING)
    choices = (await ask(house.app, "POST", CHAT, body(n=2, logprobs=True, return_token_ids=True))).json()[
        "choices"
    ]
    assert [heard(one["message"])[2] for one in choices] == [[CALL, ("go", {})]] * 2
    assert len({call["id"] for one in choices for call in one["message"]["tool_calls"]}) == 4
    for one in choices:
        assert len(one["logprobs"]["content"]) == len(one["token_ids"])


async def test_reasoning_can_be_left_out(house_that):
    house = house_that("<think>hm</think>yes")
    more = {"model": MODEL, "messages": HI, "include_reasoning": False}
    whole = (await ask(house.app, "POST", CHAT, more)).json()
    assert heard(whole["choices"][0]["message"]) == ("yes", None, [])
    events = (await stream(house.app, CHAT, more))[:-1]
    assert all(set(event["choices"][0]["delta"]) != {"reasoning"} for event in events)
    assert folded(events)[0]["reasoning"] is None


def prompt_of(house):
    return house.tokenizer.decode(house.engine.submitted[-1].tokens, skip_special=False)


async def test_reasoning_effort_reaches_the_template(house_that):
    house = house_that("x")
    for effort, off in (("none", True), ("high", False), (None, False)):
        assert (await ask(house.app, "POST", CHAT, body(reasoning_effort=effort))).status == 200
        assert ("<think></think>" in prompt_of(house)) is off
    given = body(reasoning_effort="high", chat_template_kwargs={"enable_thinking": False})
    assert (await ask(house.app, "POST", CHAT, given)).status == 200
    assert "<think></think>" in prompt_of(house)


async def test_earlier_calls_thoughts_and_results_reach_the_template(house_that):
    house = house_that("x")
    call = {"id": "c1", "type": "function", "function": {"name": "go", "arguments": '{"to": 1}'}}
    for key in ("reasoning", "reasoning_content"):
        talk = [
            *HI,
            {"role": "assistant", "content": None, "tool_calls": [call], key: "I go"},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "there <|im_end|>"}]},
        ]
        assert (await ask(house.app, "POST", CHAT, body(messages=talk))).status == 200
        prompt = prompt_of(house)
        assert '(I go)<tool_call>{"name": "go", "arguments": {"to": 1}}' in prompt.replace("\\u003c", "<")
        assert '"description": "Of a city."' in prompt and "tool\nthere <|im_end|>" in prompt
        end = house.tokenizer.specials["<|im_end|>"]
        assert house.engine.submitted[-1].tokens.count(end) == 3  # what a tool said is no special token


async def test_tools_that_may_not_be_called_can_be_hidden(house_that):
    for hide in (False, True):
        house = house_that("x", exclude_tools_when_tool_choice_none=hide)
        assert (await ask(house.app, "POST", CHAT, body(tool_choice="none"))).status == 200
        assert ("get_weather" in prompt_of(house)) is not hide
        assert (await ask(house.app, "POST", CHAT, body())).status == 200
        assert "get_weather" in prompt_of(house)


async def test_models_whose_template_knows_no_tools_are_told_in_words(house_that):
    house = house_that(HERMES, template="{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    reply = (await ask(house.app, "POST", CHAT, body())).json()
    assert heard(reply["choices"][0]["message"])[2] == [CALL, ("go", {})]
    assert prompt_of(house).startswith("system: ") and "get_weather" in prompt_of(house)
    counted = await ask(house.app, "POST", "/tokenize", {"messages": HI, "tools": [WEATHER, GO]})
    assert counted.json()["count"] == reply["usage"]["prompt_tokens"]


# -- constraints --------------------------------------------------------------------------


def grammar_of(house):
    spec = house.engine.submitted[-1].grammar
    return None if spec is None else json.loads(spec.text)["format"]


async def test_required_calls_are_constrained_and_free_ones_are_not(house_that):
    house = house_that(HERMES, reasoning_parser="none")
    begins = {
        "auto": None,
        "none": None,
        "required": ['<tool_call>\n{"name": "get_weather"', '<tool_call>\n{"name": "go"'],
    }
    for choice, names in begins.items():
        assert (await ask(house.app, "POST", CHAT, body(tool_choice=choice))).status == 200
        shape = grammar_of(house)
        assert (shape is None) is (names is None)
        if shape is not None:
            assert shape["at_least_one"]
            assert [tag["begin"].rpartition(",")[0] for tag in shape["tags"]] == names
    assert (await ask(house.app, "POST", CHAT, body(tool_choice=NAMED))).status == 200
    assert len(grammar_of(house)["tags"]) == 1 and grammar_of(house)["stop_after_first"]


async def test_constraints_begin_after_the_thought(house_that):
    house = house_that("x", template=TEMPLATE + "<think>\n")
    form = {"type": "json_schema", "json_schema": {"schema": {"type": "integer"}}}
    wanted = [
        (body(tool_choice="required"), "tags_with_separator"),
        ({"model": MODEL, "messages": HI, "response_format": form}, "json_schema"),
    ]
    for given, kind in wanted:
        assert (await ask(house.app, "POST", CHAT, given)).status == 200
        shape = grammar_of(house)
        assert shape["type"] == "sequence" and shape["elements"][0]["end"] == "</think>"
        assert shape["elements"][0]["begin"] == "" and shape["elements"][-1]["type"] == kind


async def test_a_thinking_budget_reaches_the_engine(house_that):
    house = house_that("<think>hm</think>" + HERMES)
    for more, kind in (({}, "any"), ({"tool_choice": "required"}, "structural_tag")):
        reply = await ask(house.app, "POST", CHAT, body(thinking_token_budget=5, **more))
        assert reply.status == 200, reply.content
        grammar = house.engine.submitted[-1].grammar
        assert (grammar.kind, grammar.thought.tokens, grammar.thought.close) == (kind, 5, "</think>")
    reply = await ask(house.app, "POST", CHAT, body(thinking_token_budget=-1))
    assert reply.status == 200 and house.engine.submitted[-1].grammar is None
    house = house_that("hello", reasoning_parser="none")
    reply = await ask(house.app, "POST", CHAT, body(thinking_token_budget=5))
    assert (reply.status, reply.error["param"]) == (400, "thinking_token_budget")


async def test_a_form_the_client_asked_for_stands_beside_tools_it_may_call(house_that):
    house = house_that("12", reasoning_parser="none")
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    assert (await ask(house.app, "POST", CHAT, body(tools=[strict]))).status == 200
    held = grammar_of(house)["tags"][0]["content"]["json_schema"]
    assert held == {**WEATHER["function"]["parameters"], "additionalProperties": False}
    assert (
        await ask(house.app, "POST", CHAT, body(tools=[strict], structured_outputs={"regex": "[0-9]+"}))
    ).status == 200
    assert house.engine.submitted[-1].grammar.kind == "regex"


BAD_SCHEMA = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "not": {}}}}
LATE = [*HI, {"role": "assistant", "tool_calls": [{"function": {"name": "go", "arguments": "{"}}]}]


def answered(**fields):
    return [*HI, {"role": "tool", "content": "x", **fields}]


@pytest.mark.parametrize(
    "more, field, says",
    [
        ({"tools": []}, "tools", "empty"),
        ({"tools": {}}, "tools", "array"),
        ({"tools": [{"type": "web_search"}]}, "tools", "web_search"),
        ({"tools": [{"type": "mcp", "function": {"name": "a"}}]}, "tools", "mcp"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools", "name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "letters"),
        ({"tools": [GO, GO]}, "tools[1].function.name", "twice"),
        ({"tools": [{"function": {"name": "f", "parameters": []}}]}, "tools", "object"),
        ({"tools": [GO] * 257}, "tools", "256"),
        ({"tools": [BAD_SCHEMA], "tool_choice": "required"}, "tools", "uses not"),
        ({"tools": None, "tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tools": None, "tool_choice": NAMED}, "tool_choice", "needs tools"),
        ({"tool_choice": "sometimes"}, "tool_choice", "sometimes"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "fly"}}},
            "tool_choice",
            "get_weather, go",
        ),
        ({"tool_choice": {"type": "function"}}, "tool_choice", "function"),
        ({"tool_choice": "required", "guided_regex": "a"}, "tool_choice", "another form"),
        ({"parallel_tool_calls": 3}, "parallel_tool_calls", "bool"),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "huge"),
        ({"messages": LATE}, "messages[1].tool_calls[0].function.arguments", "not JSON"),
        ({"messages": answered(tool_call_id=5)}, "messages[1].tool_call_id", "text"),
        ({"messages": answered(tool_call_id="x" * 257)}, "messages[1].tool_call_id", "256"),
        ({"messages": answered(reasoning=[1])}, "messages[1].reasoning", "text"),
        ({"messages": answered(tool_calls=[1] * 257)}, "messages[1].tool_calls", "256"),
    ],
)
async def test_bad_requests_are_told_with_their_field(house_that, more, field, says):
    house = house_that("x")
    reply = await ask(house.app, "POST", CHAT, body(**more))
    assert reply.status == 400 and reply.error["param"] == field, reply.content
    assert says in reply.error["message"] and not house.engine.submitted


async def test_a_format_nobody_knows_is_told(house_that):
    house = house_that("x", template="{{ tools }}{{ messages }}", tool_call_parser="none")
    reply = await ask(house.app, "POST", CHAT, body())
    assert reply.status == 400 and "--tool-call-parser" in reply.error["message"]
    assert (await ask(house.app, "POST", CHAT, body(tool_choice="required"))).status == 200


# -- the official client ------------------------------------------------------------------


def client_of(house):
    """The client brings the HTTP library it wants; that library speaks to an app in this process."""
    http = importlib.import_module(DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])
    transport = DefaultAsyncHttpxClient(transport=http.ASGITransport(house.app))
    return AsyncOpenAI(base_url="http://test/v1", api_key="x", http_client=transport)


async def test_a_conversation_of_the_official_client(open_house):
    answers = [THINKING, "<think>It is there.</think>Sunny."]
    config = EngineConfig(serve=ServeConfig(reasoning_parser="qwen3"))
    house = open_house(lambda request: answers.pop(0), config, template=TEMPLATE, context=4096)
    client = client_of(house)
    talk = list(HI)
    reply = await client.chat.completions.create(model=MODEL, messages=talk, tools=[WEATHER, GO])
    choice = reply.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content == "Let me see."
    talk.append(choice.message.model_dump(exclude_none=True))
    for call in choice.message.tool_calls:
        talk.append({"role": "tool", "tool_call_id": call.id, "content": f"{call.function.name}: sunny"})
    async with client.chat.completions.stream(model=MODEL, messages=talk, tools=[WEATHER, GO]) as events:
        said = [event.delta async for event in events if event.type == "content.delta"]
        final = (await events.get_final_completion()).choices[0]
    assert "".join(said) == final.message.content == "Sunny."
    prompt = prompt_of(house)
    assert "get_weather: sunny" in prompt and "go: sunny" in prompt and "(Which city?)" in prompt
