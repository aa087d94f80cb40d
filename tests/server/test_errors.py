"""Field x bad value: status, field, limit and remedy, while a neighbour's stream stays byte-equal."""

from __future__ import annotations

import json

import pytest

from tests.server.asgi import Call, ask
from tests.server.fake_engine import CONTEXT, MODEL, House

HI = [{"role": "user", "content": "hello"}]
CHAT, TEXT, TOKENIZE, DETOKENIZE = "/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"
HUGE = 10**40

# (path, what is laid over a good body, status, param, words the message must hold)
SHARED = [
    ({"model": "nobody"}, 404, "model", ["nobody", "valid names", MODEL]),
    ({"model": None}, 400, "model", ["missing", MODEL]),
    ({"model": 5}, 400, "model", ["str", "int"]),
    ({"model": "x" * 10_000}, 404, "model", [MODEL]),
    ({"n": 0}, 400, "n", ["n is 0", "1 to 16384"]),
    ({"n": -1}, 400, "n", ["-1"]),
    ({"n": HUGE}, 400, "n", ["16384"]),
    ({"n": 16384, "temperature": 1.0}, 400, "n", ["2048", "--max-queue"]),
    ({"n": "3"}, 400, "n", ["int", "str"]),
    ({"n": 1.5}, 400, "n", ["int", "float"]),
    ({"n": True}, 400, "n", ["int", "bool"]),
    ({"n": 2, "temperature": 0}, 400, "n", ["greedy", "temperature"]),
    ({"temperature": -0.1}, 400, "temperature", ["at least 0", "at most 2"]),
    ({"temperature": 2.1}, 400, "temperature", ["at most 2"]),
    ({"temperature": HUGE}, 400, "temperature", ["at most 2"]),
    ({"temperature": "hot"}, 400, "temperature", ["float", "str"]),
    ({"temperature": []}, 400, "temperature", ["array"]),
    ({"top_p": 0}, 400, "top_p", ["above 0", "at most 1"]),
    ({"top_p": 1.01}, 400, "top_p", ["at most 1"]),
    ({"top_k": -2}, 400, "top_k", ["-1"]),
    ({"top_k": HUGE}, 400, "top_k", ["-1"]),
    ({"min_p": -0.5}, 400, "min_p", ["0", "1"]),
    ({"min_p": 2}, 400, "min_p", ["0", "1"]),
    ({"presence_penalty": 2.5}, 400, "presence_penalty", ["-2", "2"]),
    ({"frequency_penalty": -3}, 400, "frequency_penalty", ["-2", "2"]),
    ({"repetition_penalty": 0}, 400, "repetition_penalty", ["above 0"]),
    ({"repetition_penalty": -1}, 400, "repetition_penalty", ["above 0"]),
    ({"seed": HUGE}, 400, "seed", ["integer"]),
    ({"seed": "x"}, 400, "seed", ["int"]),
    ({"stop": [""]}, 400, "stop", ["empty"]),
    ({"stop": 5}, 400, "stop", ["str"]),
    ({"stop": ["a", 5]}, 400, "stop", ["str"]),
    ({"stop": ["x"] * 1000}, 400, "stop", ["1000", "128"]),
    ({"stop": ["x" * 10_000]}, 400, "stop", ["4096"]),
    ({"stop_token_ids": [-1]}, 400, "stop_token_ids", ["-1"]),
    ({"stop_token_ids": [10_000]}, 400, "stop_token_ids", ["10000", "263"]),
    ({"stop_token_ids": [HUGE]}, 400, "stop_token_ids", ["integer"]),
    ({"stop_token_ids": "a"}, 400, "stop_token_ids", ["array"]),
    ({"stop_token_ids": [1] * 5000}, 400, "stop_token_ids", ["1024"]),
    ({"allowed_token_ids": []}, 400, "allowed_token_ids", ["empty"]),
    ({"allowed_token_ids": [-5]}, 400, "allowed_token_ids", ["-5"]),
    ({"allowed_token_ids": [264]}, 400, "allowed_token_ids", ["0 to 263"]),
    ({"logit_bias": {"-1": 1}}, 400, "logit_bias", ["integer"]),
    ({"logit_bias": {"9999": 1}}, 400, "logit_bias", ["0 to 263"]),
    ({"logit_bias": {"x": 1}}, 400, "logit_bias", ["text", "integer"]),
    ({"logit_bias": {"1": "x"}}, 400, "logit_bias", ["float"]),
    ({"logit_bias": {str(i): 1 for i in range(5000)}}, 400, "logit_bias", ["5000", "4096"]),
    ({"logit_bias": [1]}, 400, "logit_bias", ["object"]),
    ({"bad_words": [" "]}, 400, "bad_words", ["empty"]),
    ({"bad_words": ["z" * 200]}, 400, "bad_words", ["64"]),
    ({"min_tokens": -1}, 400, "min_tokens", ["from 0"]),
    ({"min_tokens": 9, "max_tokens": 3}, 400, "min_tokens", ["max_tokens"]),
    ({"max_tokens": -1}, 400, "max_tokens", ["-1"]),
    ({"max_tokens": HUGE}, 400, "max_tokens", ["max_tokens"]),
    ({"max_tokens": CONTEXT}, 400, "max_tokens", [str(CONTEXT), "lower max_tokens to"]),
    ({"max_tokens": "5"}, 400, "max_tokens", ["int"]),
    ({"prompt_logprobs": -2}, 400, "prompt_logprobs", ["-1"]),
    ({"prompt_logprobs": 21}, 400, "prompt_logprobs", ["20", "--max-logprobs"]),
    ({"prompt_logprobs": 1, "stream": True}, 400, "prompt_logprobs", ["stream"]),
    ({"stream": "yes"}, 400, "stream", ["bool"]),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options", ["stream"]),
    ({"stream_options": 5, "stream": True}, 400, "stream_options", ["object"]),
    ({"priority": HUGE}, 400, "priority", ["integer"]),
    ({"priority": "high"}, 400, "priority", ["int"]),
    ({"cache_salt": ""}, 400, "cache_salt", ["1 to 1024"]),
    ({"cache_salt": "x" * 5000}, 400, "cache_salt", ["1 to 1024"]),
    ({"request_id": "a b"}, 400, "request_id", ["128"]),
    ({"request_id": "x" * 500}, 400, "request_id", ["128"]),
    ({"truncate_prompt_tokens": -2}, 400, "truncate_prompt_tokens", ["-1"]),
    ({"truncate_prompt_tokens": 0}, 400, "prompt", ["empty"]),
    ({"truncation_side": "middle"}, 400, "truncation_side", ["middle"]),
    ({"use_beam_search": True}, 400, "use_beam_search", ["not available", "temperature"]),
    ({"best_of": 3}, 400, "best_of", ["not available", "n"]),
    ({"length_penalty": 2.0}, 400, "length_penalty", ["not available"]),
    ({"response_format": {"type": "xml"}}, 400, "response_format", ["xml"]),
    ({"response_format": {"type": "json_schema"}}, 400, "response_format", ["json_schema.schema"]),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}},
        400,
        "response_format",
        ["uses not,", "leave it out"],
    ),
    ({"response_format": {"type": "structural_tag", "format": {"type": "x"}}}, 400, "response_format", ["x"]),
    ({"structured_outputs": {}}, 400, "structured_outputs", ["nothing", "exactly one"]),
    ({"structured_outputs": {"json": {}, "regex": "a"}}, 400, "structured_outputs", ["json and regex"]),
    ({"structured_outputs": {"xml": "a"}}, 400, "structured_outputs", ["xml"]),
    ({"structured_outputs": {"regex": "(a"}}, 400, "structured_outputs", ["unclosed group"]),
    ({"structured_outputs": {"grammar": "start: x"}}, 400, "structured_outputs", ["unknown name"]),
    ({"guided_json": "{"}, 400, "guided_json", ["not valid JSON"]),
    ({"guided_choice": []}, 400, "guided_choice", ["list of texts"]),
    ({"guided_regex": "a", "guided_choice": ["a"]}, 400, "guided_choice", ["both"]),
    ({"logits_processors": ["x"]}, 400, "logits_processors", ["not available"]),
    ({"thinking_token_budget": 5}, 400, "thinking_token_budget", ["not available"]),
    ({"kv_transfer_params": {"a": 1}}, 400, "kv_transfer_params", ["not available"]),
]
ONLY_TEXT = [
    ({"prompt": ""}, 400, "prompt", ["empty"]),
    ({"prompt": []}, 400, "prompt", ["empty"]),
    ({"prompt": [""]}, 400, "prompt", ["empty"]),
    ({"prompt": [[]]}, 400, "prompt", ["empty"]),
    ({"prompt": None}, 400, "prompt", ["null"]),
    ({"prompt": {"a": 1}}, 400, "prompt", ["object"]),
    ({"prompt": ["a", 1]}, 400, "prompt", ["mixes"]),
    ({"prompt": [[1], "a"]}, 400, "prompt", ["mixes"]),
    ({"prompt": [[1, "a"]]}, 400, "prompt", ["int"]),
    ({"prompt": [-1]}, 400, "prompt", ["-1", "0 to 263"]),
    ({"prompt": [264]}, 400, "prompt", ["264", "0 to 263"]),
    ({"prompt": [[1], [2, 99999]]}, 400, "prompt", ["99999"]),
    ({"prompt": [HUGE]}, 400, "prompt", ["huge"]),
    ({"prompt": [1.5]}, 400, "prompt", ["float"]),
    ({"prompt": [True]}, 400, "prompt", ["bool"]),
    ({"prompt": ["a"] * 3000}, 400, "prompt", ["3000", "2048"]),
    ({"prompt": "x" * 100_000}, 400, "prompt", ["100000", str(CONTEXT)]),
    ({"prompt": [7] * (CONTEXT + 1)}, 400, "prompt", [str(CONTEXT + 1), str(CONTEXT), "shorten"]),
    ({"prompt": [7] * CONTEXT}, 400, "prompt", ["no room"]),
    ({"logprobs": -2}, 400, "logprobs", ["-1"]),
    ({"logprobs": 21}, 400, "logprobs", ["20", "--max-logprobs"]),
    ({"logprobs": True}, 400, "logprobs", ["bool"]),
    ({"suffix": "end"}, 400, "suffix", ["not available"]),
    ({"prompt_embeds": "abc"}, 400, "prompt_embeds", ["not available"]),
    ({"echo": "yes"}, 400, "echo", ["bool"]),
]
ONLY_CHAT = [
    ({"messages": []}, 400, "messages", ["empty"]),
    ({"messages": None}, 400, "messages", ["null"]),
    ({"messages": "hello"}, 400, "messages", ["str"]),
    ({"messages": ["hello"]}, 400, "messages", ["str"]),
    ({"messages": [{}]}, 400, "messages", ["role"]),
    ({"messages": [{"role": 5, "content": "x"}]}, 400, "messages", ["role"]),
    ({"messages": [{"role": "<|im_end|>", "content": "x"}]}, 400, "messages", ["role"]),
    ({"messages": [{"role": "user", "content": 5}]}, 400, "messages", ["content"]),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        400,
        "messages",
        ["image_url", "text"],
    ),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "messages", ["text"]),
    ({"messages": [{"role": "user", "content": "x" * 100_000}]}, 400, "prompt", [str(CONTEXT)]),
    ({"messages": HI * 5000}, 400, "messages", ["5000", "4096"]),
    ({"messages": [{"role": "tool", "content": "x", "tool_calls": 5}]}, 400, "messages", ["tool_calls"]),
    ({"logprobs": 5}, 400, "logprobs", ["bool"]),
    ({"top_logprobs": 3}, 400, "top_logprobs", ["logprobs"]),
    ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", ["20"]),
    ({"logprobs": True, "top_logprobs": -2}, 400, "top_logprobs", ["-1"]),
    ({"max_completion_tokens": 0}, 400, "max_completion_tokens", ["0"]),
    ({"max_completion_tokens": CONTEXT}, 400, "max_completion_tokens", [str(CONTEXT)]),
    (
        {"add_generation_prompt": True, "continue_final_message": True},
        400,
        "continue_final_message",
        ["exclude"],
    ),
    (
        {"messages": [{"role": "user", "content": ""}], "continue_final_message": True},
        400,
        "continue_final_message",
        ["text"],
    ),
    ({"tools": [{"type": "function"}]}, 400, "tools", ["function"]),
    ({"tool_choice": "required"}, 400, "tool_choice", ["needs tools"]),
    ({"functions": [{}]}, 400, "functions", ["not available"]),
    ({"modalities": ["audio"]}, 400, "modalities", ["text"]),
    ({"chat_template": "{{ x }}"}, 400, "chat_template", ["--chat-template"]),
    ({"chat_template_kwargs": {"nothing": 1}}, 400, "chat_template_kwargs", ["nothing"]),
    ({"reasoning_effort": "high"}, 400, "reasoning_effort", ["not available"]),
    ({"documents": [{"a": 1}]}, 400, "documents", ["not available"]),
]
TOKENS = [
    (TOKENIZE, {}, 400, "prompt", ["either"]),
    (TOKENIZE, {"prompt": "a", "messages": HI}, 400, "prompt", ["either"]),
    (TOKENIZE, {"prompt": 5}, 400, "prompt", ["str"]),
    (TOKENIZE, {"prompt": "a", "model": "nobody"}, 404, "model", [MODEL]),
    (TOKENIZE, {"prompt": "x" * 100_000}, 400, "prompt", [str(CONTEXT)]),
    (TOKENIZE, {"messages": []}, 400, "messages", ["empty"]),
    (TOKENIZE, {"messages": HI, "tools": [{}]}, 400, "tools", ["function"]),
    (DETOKENIZE, {}, 400, "tokens", ["missing"]),
    (DETOKENIZE, {"tokens": "a"}, 400, "tokens", ["array"]),
    (DETOKENIZE, {"tokens": [-1]}, 400, "tokens", ["0 to 263"]),
    (DETOKENIZE, {"tokens": [264]}, 400, "tokens", ["0 to 263"]),
    (DETOKENIZE, {"tokens": [HUGE]}, 400, "tokens", ["huge"]),
]
GOOD = {CHAT: {"model": MODEL, "messages": HI}, TEXT: {"model": MODEL, "prompt": "hello"}}
TABLE = [
    *((path, {**GOOD[path], **more}, *rest) for more, *rest in SHARED for path in (CHAT, TEXT)),
    *((TEXT, {**GOOD[TEXT], **more}, *rest) for more, *rest in ONLY_TEXT),
    *((CHAT, {**GOOD[CHAT], **more}, *rest) for more, *rest in ONLY_CHAT),
    *TOKENS,
]

BROKEN = [
    (b"", ["empty"]),
    (b"{", ["JSON"]),
    (b"[]", ["object"]),
    (b"null", ["object"]),
    (b'"text"', ["object"]),
    (b'{"model":"tiny","prompt":"a"} x', ["trailing"]),
    (b'{"temperature": NaN}', ["NaN"]),
    (b'{"temperature": Infinity}', ["NaN or Infinity"]),
    (b'{"temperature": 1e999}', ["range"]),
    (b'{"model": "\xff"}', ["UTF-8"]),
    (b'{"model": "\\ud800"}', ["JSON"]),
    (b'{"prompt": ' + b"[" * 100_000, ["nested"]),
    (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", ["nested"]),
    (b'{"seed": ' + b"9" * 5000 + b"}", ["range"]),
    (b"\x00" * 100, ["JSON"]),
    (b"model=tiny&prompt=a", ["JSON"]),
]


def same_field(param: str | None, field: str) -> bool:
    """messages[3].role is a place in messages."""
    return param is not None and param.replace(".", "[").split("[")[0] == field


def check(error: dict, status: int, field: str, words: list[str]) -> None:
    assert error["code"] == status, error
    assert same_field(error["param"], field), error
    assert error["type"] == ("NotFoundError" if status == 404 else "BadRequestError")
    for word in words:
        assert word in error["message"], error
    assert len(error["message"]) < 1000  # never the whole of what was sent
    assert "0x" not in error["message"]  # nor an object's address


def name(value: object) -> str:
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    return text[-60:]


@pytest.mark.parametrize("path,body,status,field,words", TABLE, ids=name)
async def test_a_bad_value_is_told_with_field_limit_and_remedy(house, path, body, status, field, words):
    reply = await ask(house.app, "POST", path, body)
    assert reply.status == status, reply.content
    check(reply.error, status, field, words)
    assert house.service.gate.open == 0 and house.engine.submitted == []


@pytest.mark.parametrize("raw,words", BROKEN, ids=name)
@pytest.mark.parametrize("path", [CHAT, TEXT, TOKENIZE, DETOKENIZE])
async def test_broken_bodies(house, path, raw, words):
    reply = await ask(house.app, "POST", path, raw=raw)
    assert reply.status == 400
    told = [*words, "missing required", "Expected", "JSON", "either"]  # whichever fault comes first
    assert any(word in reply.error["message"] for word in told), reply.content


async def test_content_type(house):
    reply = await ask(house.app, "POST", TEXT, GOOD[TEXT], headers={"content-type": "text/plain"})
    check(reply.error, 400, "Content-Type", ["text/plain", "application/json"])
    for fine in ("application/json; charset=utf-8", "application/vnd.api+json", "APPLICATION/JSON"):
        assert (await ask(house.app, "POST", TEXT, GOOD[TEXT], headers={"content-type": fine})).status == 200


async def test_unknown_routes_and_methods_have_the_same_shape(house):
    for method, path, status in (("GET", "/nothing", 404), ("GET", CHAT, 405), ("DELETE", "/health", 405)):
        reply = await ask(house.app, method, path)
        assert reply.status == status and reply.error["code"] == status
    assert (await ask(house.app, "GET", "/v1/models/nobody")).error["param"] == "model"


async def said_by(house: House, disturb) -> bytes:
    """The raw bytes of one stream while something else happens."""
    house.engine.hold = 5
    house.engine.go.clear()
    body = {**GOOD[TEXT], "stream": True, "seed": 3, "request_id": "neighbour"}
    call = Call(house.app, "POST", TEXT, body)
    await call.started()
    await disturb()
    house.engine.go.set()
    return b"".join([part async for part in call.parts()])


async def test_a_neighbours_stream_stays_byte_equal(house, monkeypatch):
    """All bad requests of the tables are sent while a stream is open."""
    monkeypatch.setattr(house.service, "now", lambda: 1)

    async def nothing() -> None:
        return None

    async def everything() -> None:
        for path, body, status, *_ in TABLE:
            assert (await ask(house.app, "POST", path, body)).status == status
        for raw, _ in BROKEN:
            assert (await ask(house.app, "POST", CHAT, raw=raw)).status == 400

    alone = await said_by(house, nothing)
    assert b"wo" not in alone and alone.count(b"data: ") > 5
    assert await said_by(house, everything) == alone


async def test_an_unexpected_error_tells_nothing(house, monkeypatch, caplog):
    def explode(*args: object, **more: object) -> None:
        raise RuntimeError("secret <object at 0x7f00>")

    monkeypatch.setattr(house.builder, "build", explode)
    reply = await ask(house.app, "POST", TEXT, GOOD[TEXT])
    assert (reply.status, reply.error["message"]) == (500, "internal error")
    assert reply.headers["x-request-id"]
    assert "secret" in caplog.text  # the log has the trace
    assert house.service.gate.open == 0
