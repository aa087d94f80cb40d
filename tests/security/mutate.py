"""Malformed requests, made from good ones: odd values in their trees, broken JSON around them, broken
HTTP around that. The same seed gives the same requests."""

from __future__ import annotations

import copy
import gzip
import json
import random
from collections.abc import Callable
from typing import Any, NamedTuple

Tree = Any

HI = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
GOOD: list[tuple[str, Tree]] = [
    ("/v1/completions", {"prompt": "hello", "max_tokens": 2}),
    ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 2, "logprobs": 2, "echo": True}),
    ("/v1/completions", {"prompt": [[1, 2], [3]], "max_tokens": 2, "logit_bias": {"5": 1.5}, "stop": ["x"]}),
    ("/v1/completions", {"prompt": "a", "max_tokens": 2, "allowed_token_ids": [5, 6], "bad_words": ["x"]}),
    ("/v1/completions", {"prompt": "a", "max_tokens": 2, "structured_outputs": {"regex": "[ab]{2}"}}),
    ("/v1/completions", {"prompt": "a", "max_tokens": 2, "n": 2, "temperature": 1.0, "seed": 1, "stream": True}),
    ("/v1/chat/completions", {"messages": HI, "max_tokens": 2, "stream": True, "stream_options": {"include_usage": True}}),
    ("/v1/chat/completions", {"messages": HI, "max_tokens": 2, "logprobs": True, "top_logprobs": 2}),
    ("/v1/chat/completions", {"messages": HI, "max_tokens": 2, "tools": [TOOL], "tool_choice": "auto"}),
    (
        "/v1/chat/completions",
        {
            "messages": HI,
            "max_tokens": 2,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}},
        },
    ),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}], "max_tokens": 2},
    ),
    ("/v1/responses", {"input": "hello", "max_output_tokens": 16}),
    ("/v1/messages", {"messages": HI, "max_tokens": 2}),
    ("/tokenize", {"prompt": "hello"}),
    ("/tokenize", {"messages": HI, "tools": [TOOL]}),
    ("/detokenize", {"tokens": [1, 2, 3]}),
]  # fmt: skip
ODD: list[Tree] = [
    None, True, False, -1, 0, 1, 3, 0.5, -0.0, 1e-320, 1e308, 2**31, 2**63, -(2**63) - 1, 10**40,
    float("nan"), float("inf"), float("-inf"),
    "", " ", "\0", "\ud800", "\u202e\u0301" * 9, "🦜" * 50, "x" * 5000, "<|im_end|>", "NaN", "1", "../../etc/passwd",
    "{{ 7*7 }}", "%s%n", [], {}, [[]], [None], {"": None}, {"__class__": "x"}, [1, "a"], [[[[[[[[]]]]]]]],
]  # fmt: skip
NAMES = (
    "n", "best_of", "stop", "stop_token_ids", "logit_bias", "temperature", "top_p", "top_k", "min_p", "seed",
    "stream", "stream_options", "min_tokens", "prompt_logprobs", "bad_words", "allowed_token_ids", "cache_salt",
    "request_id", "priority", "tools", "tool_choice", "response_format", "structured_outputs", "guided_json",
    "guided_regex", "chat_template_kwargs", "reasoning_effort", "truncate_prompt_tokens", "messages", "prompt",
    "model", "user", "echo", "add_generation_prompt", "continue_final_message", "__proto__", "a\0b", "é",
)  # fmt: skip


class Shot(NamedTuple):
    """A request as it goes over the wire. `what` names how it was spoiled."""

    what: str
    data: bytes


class Mutator:
    def __init__(self, seed: int, model: str) -> None:
        self._rng = random.Random(seed)
        self._model = model

    def shot(self) -> Shot:
        rng = self._rng
        path, good = rng.choice(GOOD)
        tree = {"model": self._model, **copy.deepcopy(good)}
        kind = rng.random()
        if kind < 0.6:
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                tree = self._spoil_tree(tree)
            return Shot("tree", self._request(path, json.dumps(tree, ensure_ascii=rng.random() < 0.5)))
        if kind < 0.8:
            spoil = rng.choice(TEXT_SPOILERS)
            data = spoil(rng, json.dumps(tree).encode())
            return Shot(spoil.__name__, self._request(path, data))
        spoil = rng.choice(WIRE_SPOILERS)
        return Shot(spoil.__name__, spoil(rng, path, json.dumps(tree).encode()))

    def _request(self, path: str, body: str | bytes) -> bytes:
        data = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
        return head(path, b"Content-Type: application/json", b"Content-Length: %d" % len(data)) + data

    def _spoil_tree(self, tree: Tree) -> Tree:
        """One odd thing, anywhere in it."""
        rng = self._rng
        places = list(_places(tree))
        holder, key = rng.choice(places) if places else (tree, None)
        how = rng.randrange(8)
        if how == 0 and isinstance(tree, dict):
            tree[rng.choice(NAMES)] = copy.deepcopy(rng.choice(ODD))
        elif key is None:
            return copy.deepcopy(rng.choice(ODD))
        elif how == 1:
            del holder[key]
        elif how == 2 and isinstance(holder, dict):
            holder[rng.choice(NAMES)] = holder.pop(key)
        elif how == 3:
            holder[key] = [holder[key]] if rng.random() < 0.5 else {"x": holder[key]}
        elif how == 4:
            holder[key] = _grown(rng, holder[key])
        elif how == 5:
            holder[key] = _deep(rng.choice((20, 150)), holder[key])
        else:
            holder[key] = copy.deepcopy(rng.choice(ODD))
        return tree


def head(path: str, *headers: bytes, method: bytes = b"POST", version: bytes = b"HTTP/1.1") -> bytes:
    lines = [method + b" " + path.encode() + b" " + version, b"Host: x", b"Connection: close", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _places(tree: Tree) -> Any:
    """Every (holder, key) of a tree."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(pairs):
        yield tree, key
        yield from _places(value)


def _grown(rng: random.Random, value: Tree) -> Tree:
    """Much more of the same, more than any list may hold."""
    if isinstance(value, list | str):
        return value * rng.choice((2, 5000))
    if isinstance(value, dict):
        return {**value, **{str(n): n for n in range(5000)}}
    return value * 10**12 if isinstance(value, int | float) else value


def _deep(depth: int, value: Tree) -> Tree:
    for _ in range(depth):
        value = [value]
    return value


# -- broken JSON ---------------------------------------------------------------------------


def cut_short(rng: random.Random, body: bytes) -> bytes:
    return body[: rng.randrange(len(body))]


def junk_behind(rng: random.Random, body: bytes) -> bytes:
    return body + rng.choice((b"}", b"x", b"{}", b"\0", b"\xff"))


def bytes_changed(rng: random.Random, body: bytes) -> bytes:
    data = bytearray(body)
    for _ in range(rng.choice((1, 2, 8))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def keys_doubled(rng: random.Random, body: bytes) -> bytes:
    return b'{"model": 1, "n": 1, "n": "x", ' + body[1:-1] + b', "max_tokens": null, "max_tokens": -5}'


def numbers_no_float_holds(rng: random.Random, body: bytes) -> bytes:
    number = rng.choice(
        (b"1e999", b"-1e999", b"9" * 5000, b"0x10", b"01", b"+1", b".5", b"1.", b"NaN", b"Infinity")
    )
    return body[:-1] + b', "temperature": ' + number + b"}"


def nested(rng: random.Random, body: bytes) -> bytes:
    depth = rng.choice((1000, 100_000))
    opened, closed = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return (
        body[:-1]
        + b', "x": '
        + opened * depth
        + b"1"
        + (closed * depth if rng.random() < 0.5 else b"")
        + b"}"
    )


def other_encoding(rng: random.Random, body: bytes) -> bytes:
    text = body.decode()
    return rng.choice(
        (text.encode("utf-16"), text.encode("utf-32"), b"\xef\xbb\xbf" + body, gzip.compress(body, mtime=0))
    )


def other_language(rng: random.Random, body: bytes) -> bytes:
    return rng.choice(
        (
            body.replace(b'"', b"'"),
            b"model=x&prompt=y",
            b"<xml/>",
            b"// x\n" + body,
            b"",
            b"null",
            b"[]",
            b'""',
        )
    )


TEXT_SPOILERS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    cut_short, junk_behind, bytes_changed, bytes_changed, keys_doubled, numbers_no_float_holds, nested, other_encoding,
    other_language,
)  # fmt: skip


# -- broken HTTP ---------------------------------------------------------------------------

_JSON = b"Content-Type: application/json"


def content_type(rng: random.Random, path: str, body: bytes) -> bytes:
    kind = rng.choice(
        (
            b"text/plain",
            b"application/xml",
            b"multipart/form-data; boundary=x",
            b"",
            b"\xff",
            b"application/" + b"x" * 900,
        )
    )
    return head(path, b"Content-Type: " + kind, b"Content-Length: %d" % len(body)) + body


def length(rng: random.Random, path: str, body: bytes) -> bytes:
    wrong = rng.choice(
        (b"5", b"99999", b"-1", b"x", b"", b"9" * 30, b"1e3", b"0x10", b"+7", b"1073741824", b" 7 7")
    )
    return head(path, _JSON, b"Content-Length: " + wrong) + body


def lengths(rng: random.Random, path: str, body: bytes) -> bytes:
    both = rng.choice(
        (b"Transfer-Encoding: chunked", b"Content-Length: 7", b"Transfer-Encoding: identity, chunked")
    )
    return head(path, _JSON, b"Content-Length: %d" % len(body), both) + body


def chunks(rng: random.Random, path: str, body: bytes) -> bytes:
    size = b"%x" % len(body)
    pieces = (
        b"zz\r\n" + body, b"-5\r\n" + body, b"ffffffffffffffff\r\n" + body, size + b"\n" + body + b"\n0\n\n",
        size + b"\r\n" + body + b"0\r\n\r\n", size + b"\r\n" + body[:5], b"\r\n" + body, b"0\r\n\r\n", b"0" * 9000,
        size + b";" + b"x" * 9000 + b"\r\n" + body + b"\r\n0\r\n\r\n", size + b"\r\n" + body + b"\r\n0\r\nX: y\r\n\r\n",
    )  # fmt: skip
    return head(path, _JSON, b"Transfer-Encoding: chunked") + rng.choice(pieces)


def header(rng: random.Random, path: str, body: bytes) -> bytes:
    odd = rng.choice(
        (
            b"X: " + b"a" * 100_000, b": x", b"X", b"X : y", b" X: y", b"X\0: y", b"X: \0", b"X: \xff\xfe", b"X: a\n b",
            b"X: a\r\n\tb", b"\r\nX: y", b"Expect: 100-continue", b"Expect: nonsense", b"Upgrade: websocket\r\nConnection: upgrade",
            b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings", b"Host: a\r\nHost: b", b"Content-Encoding: gzip",
            b"X-Request-Id: " + b"\x01" * 9, b"X-Request-Id: " + b"a" * 9000, b"Origin: \xff", b"Accept-Encoding: " + b"a," * 5000,
            b"\r\n".join(b"X-%d: y" % n for n in range(2000)), b"Range: bytes=0-1", b"Authorization: " + b"x" * 9000,
            b"X-Forwarded-For: ' or 1=1", b"Content-Type: application/json; charset=utf-7",
        )
    )  # fmt: skip
    return head(path, odd, _JSON, b"Content-Length: %d" % len(body)) + body


def first_line(rng: random.Random, path: str, body: bytes) -> bytes:
    lines = (
        b"GET", b"POST", b"POST " + path.encode(), b"POST  " + path.encode() + b" HTTP/1.1", b"post / HTTP/1.1",
        b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/2.0", b"CONNECT 127.0.0.1:1 HTTP/1.1", b"OPTIONS * HTTP/1.1",
        b"TRACE / HTTP/1.1", b"GET http://127.0.0.1:1/ HTTP/1.1", b"GET //x HTTP/1.1", b"GET /%zz HTTP/1.1",
        b"GET /%00 HTTP/1.1", b"GET /\xff HTTP/1.1", b"GET /" + b"a" * 100_000 + b" HTTP/1.1", b"GET / HTTP/9.9",
        b"GET / HTTP/1.1 x", b"\0" * 50, b"BREW /pot HTTP/1.1", b"GET /v1/models/%ff HTTP/1.1", b"HEAD / HTTP/1.0",
        b"DELETE /v1/models HTTP/1.1", b"PUT " + path.encode() + b" HTTP/1.1", b"QUERY / HTTP/1.1", b"",
    )  # fmt: skip
    return (
        rng.choice(lines)
        + b"\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        + body
    )


def noise(rng: random.Random, path: str, body: bytes) -> bytes:
    return rng.randbytes(rng.choice((1, 100, 5000)))


def cut_off(rng: random.Random, path: str, body: bytes) -> bytes:
    """A good request, of which the connection lost the rest."""
    whole = head(path, _JSON, b"Content-Length: %d" % len(body)) + body
    return whole[: rng.randrange(len(whole))]


def changed(rng: random.Random, path: str, body: bytes) -> bytes:
    return bytes_changed(rng, head(path, _JSON, b"Content-Length: %d" % len(body)) + body)


WIRE_SPOILERS: tuple[Callable[[random.Random, str, bytes], bytes], ...] = (
    content_type, length, lengths, chunks, chunks, header, header, first_line, noise, cut_off, changed,
)  # fmt: skip
