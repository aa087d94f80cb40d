"""4: every number and collection has a limit, checked before anything is made of it.
5: no NaN, no infinity, no token id outside the vocabulary, in any list and on both ends."""

from __future__ import annotations

import json

import pytest

from octavo.config.serve import ServeConfig
from octavo.core.errors import UserError
from octavo.core.request import EngineRequest, Sampling
from octavo.engine.bounds import check_ids
from tests.security.target import DIALECTS, Target, refused, said

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
MANY, LONG = 200_000, "x" * 2_000_000
DEEP: dict = {}
for _ in range(400):
    DEEP = {"type": "array", "items": DEEP}

SIZES = [
    (TEXT, {"n": 10**9, "temperature": 1}),
    (TEXT, {"n": 10**30, "temperature": 1}),
    (TEXT, {"best_of": 10**9}),
    (TEXT, {"max_tokens": 10**9}),
    (TEXT, {"max_tokens": -1}),
    (TEXT, {"min_tokens": 10**9}),
    (TEXT, {"min_tokens": -(10**9)}),
    (TEXT, {"logprobs": 10**9}),
    (TEXT, {"prompt_logprobs": 10**9}),
    (TEXT, {"stop": ["x"] * MANY}),
    (TEXT, {"stop": [LONG]}),
    (TEXT, {"stop_token_ids": [1] * MANY}),
    (TEXT, {"bad_words": ["x"] * MANY}),
    (TEXT, {"allowed_token_ids": [1] * 2_000_000}),
    (TEXT, {"logit_bias": {str(n): 1 for n in range(MANY)}}),
    (TEXT, {"prompt": ["x"] * MANY}),
    (TEXT, {"prompt": [[1]] * MANY}),
    (TEXT, {"prompt": LONG}),
    (TEXT, {"prompt": [1] * MANY}),
    (TEXT, {"cache_salt": LONG}),
    (TEXT, {"request_id": LONG}),
    (TEXT, {"model": LONG}),
    (TEXT, {"truncate_prompt_tokens": -(10**9)}),
    (TEXT, {"structured_outputs": {"regex": LONG}}),
    (TEXT, {"structured_outputs": {"choice": ["x"] * MANY}}),
    (TEXT, {"structured_outputs": {"grammar": LONG}}),
    (TEXT, {"structured_outputs": {"json": {"enum": [str(n) for n in range(MANY)]}}}),
    (TEXT, {"structured_outputs": {"json": DEEP}}),
    (CHAT, {"messages": said("x") * MANY}),
    (CHAT, {"messages": said(LONG)}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * MANY}]}),
    (CHAT, {"messages": [{"role": LONG, "content": "x"}]}),
    (CHAT, {"messages": said("x"), "top_logprobs": 10**9, "logprobs": True}),
    (CHAT, {"messages": said("x"), "max_completion_tokens": 10**9}),
    (CHAT, {"messages": said("x"), "tools": [{"type": "function", "function": {"name": "f"}}] * MANY}),
    (CHAT, {"messages": said("x"), "chat_template_kwargs": {str(n): n for n in range(MANY)}}),
    ("/tokenize", {"prompt": LONG}),
    ("/detokenize", {"tokens": [10**9]}),
]


def shape(value: object) -> str:
    return json.dumps(value)[:60] if not isinstance(value, str) else value


@pytest.mark.parametrize("route,more", SIZES, ids=shape)
def test_rule_04_sizes_are_bounded(target: Target, route: str, more: dict) -> None:
    good = DIALECTS[route]("hello") if route in DIALECTS else {}
    reply = target.post(route, {**good, **more})
    assert refused(reply), (reply.status_code, reply.text[:300])
    assert len(reply.content) < 10_000  # what is wrong, not all that was sent


@pytest.mark.parametrize(
    "part",
    [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, {"type": "input_audio"}],
)
def test_rule_04_media_are_bounded(target: Target, part: dict) -> None:
    """A server that reads none refuses the first."""
    messages = [{"role": "user", "content": [part] * 10_000}]
    assert refused(target.post(CHAT, {"messages": messages, "max_tokens": 1}))


def test_rule_04_a_body_is_bounded_while_it_comes(target: Target) -> None:
    """Announced or in chunks, the server stops reading long before a gigabyte."""
    key = target.keys[0] if target.keys else ""
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {key}\r\nConnection: close\r\n"
    ).encode()
    announced = target.send(head + b"Content-Length: 1073741824\r\n\r\n{")
    assert announced.split(b" ", 2)[1] == b"413"
    piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    streamed = target.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + piece * 20)
    assert not streamed or streamed.split(b" ", 2)[1] == b"413"  # nothing, when it was reset while sending


@pytest.mark.parametrize("head", [b"X: " + b"a" * 2_000_000, b"X: y\r\n" * 100_000], ids=["long", "many"])
def test_rule_04_headers_are_bounded(target: Target, head: bytes) -> None:
    answer = target.send(b"GET /health HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n")
    assert not answer or answer.split(b" ", 2)[1] in (b"431", b"400", b"413")
    assert target.ask("GET", "/health").status_code == 200


@pytest.mark.this_tree
def test_rule_04_every_limit_of_a_connection_has_a_default() -> None:
    serve = ServeConfig()
    for name in ("max_body_bytes", "max_header_bytes", "max_header_count", "max_connections"):
        assert 0 < vars(serve)[name] < 1 << 30
    for name in ("header_timeout", "body_timeout", "send_timeout", "keep_alive_timeout", "step_timeout"):
        assert 0 < vars(serve)[name] <= 600


NUMBERS = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", '"NaN"'])
@pytest.mark.parametrize("field", NUMBERS)
def test_rule_05_only_numbers_are_numbers(target: Target, field: str, value: str) -> None:
    for route in target.dialects:
        good = json.dumps({"model": target.model, **DIALECTS[route]("hello")})
        raw = f'{good[:-1]}, "{field}": {value}}}'.encode()
        known = route in (TEXT, CHAT) or field in ("temperature", "top_p")
        reply = target.ask("POST", route, raw=raw)
        assert refused(reply) if known else reply.status_code < 500, reply.text


IDS = [
    {"prompt": [-1]},
    {"prompt": [1, 2**31]},
    {"prompt": [[5], [10**9]]},
    {"prompt": [2**63]},
    {"prompt": [1.5]},
    {"stop_token_ids": [-1]},
    {"stop_token_ids": [10**9]},
    {"allowed_token_ids": [-1, 5]},
    {"allowed_token_ids": [10**9]},
    {"allowed_token_ids": []},
    {"logit_bias": {"-1": 1}},
    {"logit_bias": {"1000000000": 1}},
    {"logit_bias": {"x": 1}},
    {"n": -1},
    {"top_k": -5},
    {"logprobs": -5},
    {"min_tokens": -1},
    {"priority": 10**30},
    {"seed": 10**30},
]


def test_rule_05_no_id_outside_the_vocabulary_and_no_harm_to_a_neighbour(target: Target) -> None:
    alone = target.answer()
    for more in IDS:
        for _ in range(2):
            reply = target.post(TEXT, {"prompt": "hello", "max_tokens": 4, **more})
            assert refused(reply), (more, reply.status_code, reply.text[:200])
    assert refused(target.post("/detokenize", {"tokens": [-1]}))
    assert target.answer() == alone


@pytest.mark.this_tree
def test_rule_05_the_core_checks_ids_for_itself() -> None:
    """The front's word is not taken: one bad index would read a neighbour's memory."""
    lists = {
        "stop_token_ids": (7,),
        "allowed_token_ids": (7,),
        "logit_bias": ((7, 1.0),),
        "bad_words": ((1, 7),),
        "eos": (7,),
    }
    for name, value in lists.items():
        request = EngineRequest(id="r", tokens=(1,), seed=0, sampling=Sampling(**{name: value}))
        check_ids(request, 8)
        with pytest.raises(UserError):
            check_ids(request, 7)
    for tokens in ((7,), (-1,), ()):
        with pytest.raises(UserError):
            check_ids(EngineRequest(id="r", tokens=tokens, seed=0, sampling=Sampling()), 7)
