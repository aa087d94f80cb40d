"""6: patterns, grammars and templates neither stop the loop nor fill the memory. 7: templates are the
server's own, in a sandbox; what came with a model is not trusted. 8: the server fetches nothing."""

from __future__ import annotations

import ast
import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from octavo.config.grammar import GrammarConfig
from octavo.config.serve import ServeConfig
from octavo.core.errors import UserError
from octavo.core.request import EngineRequest, GrammarSpec, Sampling
from octavo.engine.masks import Grammars
from octavo.grammar.compile import Compiler
from octavo.text.chat import ChatTemplate
from octavo.text.sandbox import Limits
from tests.security.target import Target, refused, said, texts_of
from tests.unit.test_house import TREES, called

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"

HEAVY = [
    {"structured_outputs": {"regex": "(a+)+$"}},
    {"structured_outputs": {"regex": "(a|a)*b" * 50}},
    {"structured_outputs": {"regex": "((a{0,99}){0,99}){0,99}"}},
    {"structured_outputs": {"regex": "(?:" * 500 + "a" + ")*" * 500}},
    {"structured_outputs": {"regex": "[" * 3000}},
    {"structured_outputs": {"regex": "(?<=a)b"}},
    {"structured_outputs": {"grammar": 'start: start start | "a"'}},
    {"structured_outputs": {"grammar": "start: " + "(" * 2000 + '"a"' + ")" * 2000}},
    {"structured_outputs": {"json": {"$ref": "#"}}},
    {"structured_outputs": {"json": {"$ref": "http://127.0.0.1:1/x"}}},
    {"structured_outputs": {"json": {"type": "string", "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$"}}},
    {"structured_outputs": {"json": {"type": "string", "minLength": 10**6, "maxLength": 10**9}}},
    {"structured_outputs": {"json": {"type": "array", "minItems": 10**6}}},
    {"structured_outputs": {"json": {"allOf": [{"anyOf": [{"const": n}]} for n in range(300)]}}},
    {"structured_outputs": {"json": {"type": "object", "properties": {str(n): {} for n in range(3000)}}}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "x"}}}},
    {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#"}}}],
        "tool_choice": "required",
    },
]


def test_rule_06_a_heavy_grammar_holds_up_nobody(target: Target) -> None:
    """While they are worked on a stream goes on, unchanged, and the server stays healthy."""
    with target.stream() as lines:
        alone = texts_of(lines)
    statuses: list[int] = []

    def attack() -> None:
        for more in HEAVY:
            reply = target.post(CHAT, {"messages": said("hello"), "max_tokens": 4, **more})
            statuses.append(reply.status_code)

    attacker = threading.Thread(target=attack)
    attacker.start()
    while attacker.is_alive():
        with target.stream() as lines:
            assert texts_of(lines) == alone
        assert target.ask("GET", "/health").status_code == 200
    attacker.join()
    assert len(statuses) == len(HEAVY) and all(status < 500 for status in statuses), statuses


@pytest.mark.this_tree
def test_rule_06_a_grammar_that_takes_too_long_ends_its_request_alone() -> None:
    now = [0.0]
    never: Future = Future()

    class Slow:
        def start(self, spec: GrammarSpec) -> Future:
            return never

    grammars = Grammars(Slow(), 64, (1,), timeout=10.0, clock=lambda: now[0])  # type: ignore[arg-type]
    spec = GrammarSpec("regex", "a")
    grammars.open(EngineRequest(id="r", tokens=(1,), seed=0, sampling=Sampling(), grammar=spec))
    assert grammars.failures() == {}
    now[0] = 11.0
    assert list(grammars.failures()) == ["r"]
    assert 0 < GrammarConfig().grammar_timeout <= 60 and 0 < GrammarConfig().max_grammar_bytes <= 1 << 20


@pytest.mark.this_tree
def test_rule_06_the_cache_of_grammars_is_bounded() -> None:
    class Backend:
        def compile(self, spec: GrammarSpec) -> str:
            return spec.text

    compiler = Compiler(Backend, keep=3)  # type: ignore[arg-type]
    for n in range(50):
        compiler.start(GrammarSpec("regex", str(n))).result()
    assert len(compiler._known) == 3
    compiler.close()


@pytest.mark.this_tree
def test_rule_06_no_pattern_of_a_user_reaches_a_backtracking_engine() -> None:
    """Patterns given to `re` are constants, or built from escaped names of the tokenizer or the server."""
    built = {
        "octavo/server/openai/build.py",  # names of our own fields
        "octavo/text/guard.py",  # special tokens, escaped; a random key
        "octavo/grammar/tags.py",  # special tokens, escaped
    }
    odd = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if called(node).startswith("re.")
        and not called(node).endswith("escape")
        and not isinstance(node.args[0], ast.Constant)
        and not ast.unparse(node.args[0]).lstrip("_").isupper()
    }
    assert odd <= built, odd - built


TEMPLATES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__['os'].system('id') }}",
    "{{ self._TemplateReference__context }}",
    "{{ raise_exception.__globals__ }}",
    "{{ ''|attr('__class__') }}",
    "{{ ('%s' % ''.__class__)|length and ''['__cl' ~ 'ass__'].__base__.__subclasses__() }}",
    "{{ 'x' * 10**9 }}",
    "{{ ['x' * 99999] * 99999 }}",
    "{% set a = ['x' * 999999] %}{% set b = [a] * 999 %}{% set c = [b] * 999 %}{{ c }}",
    "{% set a = ['x' * 9999] * 999 %}{% set b = [a, a, a, a, a, a, a, a, a] %}{{ [b, b, b, b, b]|tojson }}",
    "{% set a = ['x' * 9999] * 999 %}{% set b = [a, a, a, a, a, a, a, a, a] %}{{ (b|string)|length }}",
    "{% set a = ['x' * 9999] * 999 %}{{ [[a, a, a, a, a, a, a, a, a]]|join|length }}",
    "{% set a = ['x' * 9999] * 999 %}{{ [a, a, a, a, a, a, a, a, a]|upper|length }}",
    "{% set a = ['x' * 9999] * 999 %}{{ ([a, a, a, a, a, a, a, a, a] ~ '')|length }}",
    "{% for a in range(10**9) %}{% endfor %}",
    "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}",
    "{{ '%999999999d' % 1 }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_rule_07_a_client_brings_no_template(target: Target, template: str) -> None:
    for more in ({"chat_template": template}, {"chat_template_kwargs": {"chat_template": template}}):
        assert refused(target.post(CHAT, {"messages": said("hello"), "max_tokens": 1, **more}))
    rendered = target.post(CHAT, {"messages": said(template), "max_tokens": 1})  # as text it is only text
    assert rendered.status_code == 200


@pytest.mark.parametrize(
    "name",
    ["messages", "bos_token", "eos_token", "add_generation_prompt", "raise_exception", "_limits", "self"],
)
def test_rule_07_a_client_replaces_no_name_of_the_template(target: Target, name: str) -> None:
    body = {"messages": said("hello"), "max_tokens": 1, "chat_template_kwargs": {name: "<|im_start|>system"}}
    assert refused(target.post(CHAT, body))


@pytest.mark.this_tree
@pytest.mark.parametrize("template", TEMPLATES)
def test_rule_07_a_template_of_a_model_is_not_trusted(template: str) -> None:
    ticks = iter(range(10**9))
    limits = lambda: Limits(clock=lambda: next(ticks) / 1000)  # noqa: E731 (a clock that runs with the work)
    shown = ""
    with contextlib.suppress(UserError):
        shown = ChatTemplate(template, limits=limits).render(said("hello")).text
    assert shown in ("", "0")  # what may not be looked at is not there


@pytest.mark.this_tree
def test_rule_07_code_of_a_checkpoint_is_never_asked_for() -> None:
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            for keyword in node.keywords if isinstance(node, ast.Call) else ():
                if keyword.arg in ("trust_remote_code", "code_revision"):
                    assert ast.unparse(keyword.value) == "False", name
    assert not any("get_class_from_dynamic_module" in ast.unparse(tree) for tree in TREES.values())


@contextlib.contextmanager
def canary() -> Iterator[tuple[str, list[bytes]]]:
    """An address on loopback, and who called there."""
    calls: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", calls
        with contextlib.suppress(BlockingIOError):
            while True:  # whoever called is in the backlog by now
                peer, _ = listener.accept()
                calls.append(b"called")
                peer.close()


def test_rule_08_no_url_is_fetched_and_no_file_read(target: Target) -> None:
    with canary() as (url, calls):
        for where in (url, url.replace("127.0.0.1", "localhost"), "file:///etc/passwd", "ftp://127.0.0.1/x"):
            parts = [
                {"type": "image_url", "image_url": {"url": where}},
                {"type": "image_url", "image_url": where},
                {"type": "video_url", "video_url": {"url": where}},
                {"type": "audio_url", "audio_url": {"url": where}},
                {"type": "input_audio", "input_audio": {"data": where, "format": "wav"}},
                {"type": "file", "file": {"file_id": where}},
                {"type": "input_image", "image_url": where},
            ]
            for part in parts:
                messages = [{"role": "user", "content": [part, {"type": "text", "text": "hello"}]}]
                for route in target.dialects:
                    if route != TEXT:
                        key = "input" if route == "/v1/responses" else "messages"
                        reply = target.post(route, {key: messages, "max_tokens": 4})
                        assert refused(reply) and "root:" not in reply.text, (route, part, reply.text)
            for more in (
                {"structured_outputs": {"json": {"$ref": where}}},
                {"kv_transfer_params": {"remote_host": where, "remote_port": 1}},
                {"tools": [{"type": "mcp", "server_url": where}]},
            ):
                reply = target.post(CHAT, {"messages": said("hello"), "max_tokens": 4, **more})
                assert reply.status_code < 500 and "root:" not in reply.text
    assert calls == []


@pytest.mark.this_tree
def test_rule_08_what_serves_requests_has_no_http_client() -> None:
    rooms = (
        "octavo/server/",
        "octavo/front/",
        "octavo/text/",
        "octavo/parsers/",
        "octavo/grammar/",
        "octavo/engine/",
    )
    clients = {"httpx", "requests", "urllib", "aiohttp", "urllib3", "http"}
    found = [
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if name.startswith(rooms)
        for module in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        if module.split(".")[0] in clients
    ]
    assert found == []
    assert ServeConfig().host == "127.0.0.1"
