"""9: nobody learns from the cache what others asked. 10: checks hold, and errors give nothing away.
11: a user's text stays text."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from array import array
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from octavo.core.request import EngineRequest, MediaSpan, Sampling
from octavo.scheduler.hashing import Chain, root
from tests.security.target import DIALECTS, Target, refused, said
from tests.unit.test_house import TREES

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
SECRET = "My account number, which nobody but me and the bank may know, is "
ROOT = Path(__file__).resolve().parents[2]


def cached(target: Target, route: str, text: str, **more: object) -> int:
    """How many tokens of the prompt were found in the cache, as the server tells."""
    key = str(more.pop("key", ""))
    reply = target.post(route, {**DIALECTS[route](text), "temperature": 0, **more}, key=key)
    assert reply.status_code == 200, reply.text
    usage = reply.json()["usage"]
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    return int(details.get("cached_tokens") or usage.get("cache_read_input_tokens") or 0)


def test_rule_09_tenants_do_not_see_each_others_prompts_in_the_cache(target: Target) -> None:
    """On every route; a tenant does find its own."""
    assert len(target.keys) > 1, "give keys of two tenants, each with --api-key"
    for route in target.dialects:
        text = f"By way of {route}: {SECRET * 3}"
        template = cached(target, route, text)  # what the chat template puts before every text
        assert cached(target, route, text) > template, route
        assert cached(target, route, text, key=target.keys[1]) <= template, route


def test_rule_09_a_salt_separates_within_a_tenant(target: Target) -> None:
    for route in (TEXT, CHAT):
        text = f"With salt from {route}: {SECRET * 3}"
        template = cached(target, route, text, cache_salt="one")
        assert cached(target, route, text, cache_salt="one") > template
        assert cached(target, route, text, cache_salt="two") <= template
        assert cached(target, route, text) <= max(template, cached(target, route, f"Other {text}"))


@pytest.mark.this_tree
def test_rule_09_the_name_of_a_block_covers_all_that_changes_it() -> None:
    plain = EngineRequest(id="r", tokens=(1, 2, 3, 4), seed=0, sampling=Sampling())
    tokens = array("i", plain.tokens)

    def last(
        request: EngineRequest = plain, model: str = "m", media: tuple = (), ids: array = tokens
    ) -> bytes:
        return Chain(root(model, request), 2, media).extend(ids, 2)[-1]

    @dataclass
    class Span:
        at: int
        length: int
        hash: bytes

    names = [
        last(),
        last(model="n"),
        last(msgspec.structs.replace(plain, salt="s")),
        last(msgspec.structs.replace(plain, adapter="s")),
        last(msgspec.structs.replace(plain, adapter="a", salt="b")),
        last(msgspec.structs.replace(plain, adapter="ab")),
        last(ids=array("i", (1, 2, 3, 5))),
        last(ids=array("i", (2, 1, 3, 4))),
        last(media=(Span(0, 1, b"a" * 32),)),  # type: ignore[arg-type]
        last(media=(Span(0, 1, b"b" * 32),)),  # type: ignore[arg-type]
        last(media=(Span(1, 1, b"a" * 32),)),  # type: ignore[arg-type]
    ]
    assert len(set(names)) == len(names) and {len(name) for name in names} == {32}
    assert MediaSpan.__annotations__.keys() >= {"at", "length", "hash"}


TELLTALE = re.compile(r"0x[0-9a-f]{6,}|Traceback|File \"|site-packages|/home/|/root/|<[\w.]+ object|\.py\b")
BAD = [
    {"temperature": "hot"},
    {"n": -1},
    {"prompt": {"a": {"b": object.__name__}}},
    {"stop": {"x": 1}},
    {"logit_bias": {"a": "b"}},
    {"messages": [{"role": "user", "content": {"a": 1}}]},
    {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBOR"}}],
            }
        ]
    },
    {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "no"}}}],
        "tool_choice": "required",
    },
    {"structured_outputs": {"regex": "("}},
    {"structured_outputs": {"grammar": "start: "}},
    {"structured_outputs": {"json": {"type": 5}}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"pattern": "("}}}},
    {"stream_options": 5},
    {"model": "/etc/passwd"},
    {"chat_template_kwargs": {"x": 1}},
]


def test_rule_10_errors_give_nothing_away(target: Target) -> None:
    for route in target.dialects:
        for more in BAD:
            reply = target.post(route, {**DIALECTS[route]("hello"), **more})
            assert reply.status_code < 500, (route, more, reply.text)
            if refused(reply):
                assert not TELLTALE.search(reply.text), reply.text
                assert reply.headers["content-type"].startswith("application/json")
        for raw in (b"", b"{", b"\xff", b"[" * 10_000, b"null", b'{"model": ' + b"9" * 5000 + b"}"):
            reply = target.ask("POST", route, raw=raw)
            assert refused(reply) and not TELLTALE.search(reply.text), reply.text
    for path in ("/v1/models/%2fetc%2fpasswd", "/../../etc/passwd", "/%00", "/" + "a" * 5000):
        reply = target.ask("GET", path)
        assert refused(reply) and not TELLTALE.search(reply.text) and len(reply.text) < 2000


@pytest.mark.this_tree
def test_rule_10_checks_are_no_asserts() -> None:
    """What faces requests asserts nothing but what kind of value is there, for the type checker."""
    rooms = ("octavo/server/", "octavo/front/", "octavo/text/", "octavo/parsers/")
    odd = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if name.startswith(rooms) and isinstance(node, ast.Assert)
        if " is not " not in (test := ast.unparse(node.test)) and not test.startswith("isinstance(")
    ]
    assert odd == []


@pytest.mark.this_tree
def test_rule_10_checks_hold_without_asserts() -> None:
    """Under `python -O` every bad value of the server's own table is refused all the same."""
    script = Path(__file__).with_name("optimised.py")
    done = subprocess.run([sys.executable, "-O", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) > 150


def specials(target: Target) -> list[tuple[str, int]]:
    """Strings that this model reads as one token when they come raw."""
    found = []
    for text in ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<|eot_id|>", "<tool_call>"):
        body = {"prompt": text, "add_special_tokens": False}
        ids = target.post("/tokenize", body).json()["tokens"]
        if len(ids) == 1:
            found.append((text, ids[0]))
    return found


def test_rule_11_a_users_text_mints_no_special_token(target: Target) -> None:
    found = specials(target)
    assert found
    for text, id in found:

        def count(content: object, id: int = id, **more: object) -> int:
            messages = [{"role": "user", "content": content, **more}]
            reply = target.post("/tokenize", {"messages": messages})
            assert reply.status_code == 200, reply.text
            return list(reply.json()["tokens"]).count(id)

        plain = count("hello")
        halves = text[:3], text[3:]
        parts = [{"type": "text", "text": half} for half in halves]
        for content in (text, f"a{text}b", text * 9, f"\n{text}\n", parts, [{"type": "text", "text": text}]):
            assert count(content) == plain, (text, content)
        assert count("hello", name=text) == plain
        role = target.post("/tokenize", {"messages": [{"role": text, "content": "hello"}]})
        assert refused(role) or role.json()["tokens"].count(id) <= plain
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": f'{{"a": "{text}"}}'}}
        history = [
            *said("hello"),
            {"role": "assistant", "content": text, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": text},
        ]
        told = [*said("hello"), {"role": "assistant", "content": "x"}, {"role": "tool", "content": "x"}]
        both = [target.post("/tokenize", {"messages": one}) for one in (history, told)]
        if all(reply.status_code == 200 for reply in both):
            attacked, harmless = (reply.json()["tokens"].count(id) for reply in both)
            assert attacked <= harmless
