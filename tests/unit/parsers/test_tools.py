"""Every tool format: what comes out, and that it does not depend on how the text was cut."""

from __future__ import annotations

import pytest

from octavo.parsers.events import CallArguments, CallStart, fold, merge
from octavo.parsers.machine import TOOLS as REGISTRY
from tests.unit.parsers.driving import T, maker, run, shown, three_cuts, two_cuts
from tests.unit.parsers.formats import FORMATS, damaged, scenarios

THREE = 40  # cuts into three parts per text in the fast suite; `make test-slow` takes them all

SPECIAL: list[tuple[str, str, list[object]]] = [
    # arguments before the name, as a string, null, absent; an id beside them
    ("hermes", '<tool_call>{"arguments": {"n": 1}, "name": "f"}</tool_call>', [("f", {"n": 1})]),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"n\\": 1}"}</tool_call>', [("f", {"n": 1})]),
    ("hermes", '<tool_call>{"name": "g", "arguments": null, "id": 7}</tool_call>', [("g", {})]),
    ("hermes", '<tool_call>{"type": "function", "name": "g"}</tool_call>', [("g", {})]),
    # two objects in one tag; a closing tag that never came
    ("hermes", '<tool_call>{"name": "g"}\n{"name": "f", "arguments": {}}</tool_call>', [("g", {}), ("f", {})]),
    ("hermes", '<tool_call>{"name": "g"} and more', [("g", {}), T("and more")]),
    # cut off and broken inside the arguments: the call stays open; before them: text
    ("hermes", '<tool_call>{"name": "f", "arguments": {"s": "a', [("f", '{"s": "a', "open")]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"n": 1</tool_call> b', [("f", '{"n": 1', "open"), T("b")]),
    ("hermes", '<tool_call>{"name": "f", "argu', [T('<tool_call>{"name": "f", "argu')]),
    ("hermes", "<tool_call>f(x)</tool_call>", [T("<tool_call>f(x)</tool_call>")]),
    ("hermes", '<tool_call> nonsense <tool_call>{"name": "g"}</tool_call>', [T("<tool_call> nonsense"), ("g", {})]),
    ("hermes", '<tool_call>{"name": "g", "arguments": {}, "why": 1}', [("g", {}), T(', "why": 1}')]),
    ("granite", '<tool_call>[{"name": "g", "arguments": {}}]', [("g", {})]),
    ("granite", '<function_call> {"name": "f", "arguments": {"n": 1}}<function_call>{"name": "g"}', [("f", {"n": 1}), ("g", {})]),
    ("granite", '<|tool_call|>[{"name": "g"}, oops]', [("g", {}), T(", oops]")]),
    ("granite", "<|tool_call|>[]", [T("<|tool_call|>[]")]),
    ("phi4_mini_json", "import functools\nfunctools.reduce", [T("import functools\nfunctools.reduce")]),
    ("llama3_json", '{"name": "f", "parameters": {"n": 1}}', [("f", {"n": 1})]),
    ("llama3_json", '\n{"name": "f", "parameters": {}}, {"name": "g", "parameters": {}}', [("f", {}), ("g", {})]),
    ("llama3_json", '{"name": "Bob", "parameters": {}}', [T('{"name": "Bob", "parameters": {}}')]),
    ("llama3_json", '{"name": "f"}', [T('{"name": "f"}')]),
    ("llama3_json", '{"age": {"name": "f"}}', [T('{"age": {"name": "f"}}')]),
    ("llama3_json", "[1, 2] is a list", [T("[1, 2] is a list")]),
    ("llama3_json", '<|python_tag|>brave_search.call(query="a b")', [("brave_search", {"query": "a b"})]),
    ("llama3_json", "<|python_tag|>print('x')", [T("<|python_tag|>print('x')")]),
    ("mistral", "[TOOL_CALLS]f[CALL_ID]abc123[ARGS]{}", [("f", {})]),
    ("mistral", "[TOOL_CALLS]g[ARGS]null", [("g", {})]),
    ("mistral", "[TOOL_CALLS] tools are fun", [T("[TOOL_CALLS] tools are fun")]),
    ("mistral", "[TOOL_CALLS]f[ARGS]", [T("[TOOL_CALLS]f[ARGS]")]),
    ("deepseek_v31", "<｜tool▁call▁begin｜>g<｜tool▁sep｜><｜tool▁call▁end｜>.", [("g", {}), T(".")]),
    ("deepseek_v31", "<｜tool▁call▁begin｜>g<｜tool▁sep｜>```json\n{}\n```<｜tool▁call▁end｜>", [("g", {})]),
    ("deepseek_v31", "<｜tool▁calls▁begin｜> none", [T("<｜tool▁calls▁begin｜> none")]),
    ("kimi_k2", "<|tool_call_begin|>g<|tool_call_argument_begin|>{}<|tool_call_end|>", [("g", {})]),
    ("qwen3_coder", "<function=g>\n</function> ok", [("g", {}), T("ok")]),
    ("qwen3_coder", "<function=f>\n<parameter=s>\n\n a\n\n</parameter></function>", [("f", {"s": "\n a\n"})]),
    ("qwen3_coder", "<function=f><parameter=n>many</parameter></function>", [("f", {"n": "many"})]),
    ("qwen3_coder", "<function=f><parameter=x>{'a': True}</parameter></function>", [("f", {"x": {"a": True}})]),
    ("qwen3_coder", "<function=f><parameter=zz>5</parameter></function>", [("f", {"zz": "5"})]),
    ("qwen3_coder", "<function=f>\n<parameter=s>\nab", [("f", '{"s": "ab', "open")]),
    ("qwen3_coder", "<function=f>\n<parameter=n>4</parameter> so", [("f", {"n": 4}), T("so")]),
    ("qwen3_coder", "<tool_call>\nno\n</tool_call>", [T("<tool_call>\nno\n</tool_call>")]),
    ("glm45", "<tool_call>f<arg_key>n</arg_key><arg_value>4</arg_value></tool_call>", [("f", {"n": 4})]),
    ("glm45", "<tool_call>f\n<arg_key>zz</arg_key><arg_value>4</arg_value></tool_call>", [("f", {"zz": 4})]),
    ("glm45", "<tool_call>f\n<arg_key>s</arg_key>", [("f", "", "open"), T("<arg_key>s</arg_key>")]),
    ("glm45", '<tool_call>{"name": "f"}</tool_call>', [T('<tool_call>{"name": "f"}</tool_call>')]),
    ("pythonic", "[f(n=1), g()]", [("f", {"n": 1}), ("g", {})]),
    ("pythonic", "[f(s='''a'b''', n=-1.5e3, x={'k': (None, True)}),]", [("f", {"s": "a'b", "n": -1500.0, "x": {"k": [None, True]}})]),
    ("pythonic", "[nobody(a=1)]", [T("[nobody(a=1)]")]),
    ("pythonic", "[f(1)]", [T("[f(1)]")]),
    ("pythonic", "[f(n=1), g(", [("f", {"n": 1}), T(", g(")]),
    ("pythonic", "[link](http://x)", [T("[link](http://x)")]),
    ("pythonic", "Sure: [f(n=1)]", [T("Sure: [f(n=1)]")]),
    ("gpt_oss", " to=functions.f<|channel|>commentary json<|message|>{}<|call|>", [("f", {})]),
    ("gpt_oss", "<|channel|>final<|message|> Hi. <|return|>", [T("Hi.")]),
    ("gpt_oss", "<|channel|>commentary to=python<|message|>print(1)<|call|>", [("python", "print(1)", "raw")]),
    ("gpt_oss", "<|channel|>commentary to=functions.g<|message|><|call|>", [("g", {})]),
    ("gpt_oss", "<|channel|>commentary<|message|>Soon.<|end|><|start|>assistant<|channel|>final<|message|>Now.", [T("Soon.\nNow.")]),
    ("gpt_oss", "<|channel|>final<|end|>oops", [T("<|channel|>final<|end|>oops")]),
    ("gpt_oss", "plain", [T("plain")]),
]  # fmt: skip


CASES = [
    *((f.parser, text, expected) for f in FORMATS.values() for text, expected in scenarios(f)),
    *SPECIAL,
]
BROKEN = [(f.parser, text) for f in FORMATS.values() for text in damaged(f)]
TEXTS = sorted({*((parser, text) for parser, text, _ in CASES), *BROKEN})


@pytest.mark.parametrize(("parser", "text", "expected"), CASES)
def test_what_comes_out(parser, text, expected):
    assert shown(run(maker(parser)(), [text])) == expected


def test_every_format_has_ten_texts():
    for name in {f.parser for f in FORMATS.values()}:
        assert sum(parser == name for parser, _ in TEXTS) >= 20
    makers = {id(make) for _, make in REGISTRY}
    assert makers == {id(REGISTRY.get(f.parser)) for f in FORMATS.values()}


@pytest.mark.parametrize("name", sorted({parser for parser, _ in TEXTS}))
def test_cuts_do_not_matter(name):
    """Whole = every two parts = many three parts = letter by letter."""
    make = maker(name)
    for text in (t for parser, t in TEXTS if parser == name):
        want = run(make(), [text])
        for parts in (*two_cuts(text), *three_cuts(text, THREE), list(text)):
            assert run(make(), parts) == want, parts


@pytest.mark.slow
@pytest.mark.parametrize(("parser", "text"), TEXTS)
def test_every_cut_into_three(parser, text):
    make = maker(parser)
    want = run(make(), [text])
    for parts in three_cuts(text):
        assert run(make(), parts) == want, parts


@pytest.mark.parametrize("name", sorted({parser for parser, _ in TEXTS}))
def test_nothing_waits_longer_than_it_must(name):
    """What was said after the first k letters does not depend on how they came."""
    for text in (t for parser, t in TEXTS if parser == name and len(t) < 120):
        slow, said = maker(name)(), []
        for k, letter in enumerate(text, 1):
            said.extend(slow.feed(letter))
            at_once = maker(name)()
            assert merge(said) == merge(at_once.feed(text[:k])), text[:k]


@pytest.mark.parametrize(("parser", "text"), BROKEN)
def test_what_is_no_call_is_text(parser, text):
    """Without a call nothing was taken for syntax, so nothing is missing."""
    events = run(maker(parser)(), [text])
    if parser != "gpt_oss" and not any(isinstance(e, CallStart) for e in events):
        assert events == [T(text)]


def test_arguments_are_streamed():
    for name in ("hermes", "qwen3_coder"):
        text = FORMATS[name].render([("f", {"s": "abcdefgh"})])
        parser = maker(name)()
        pieces = [e for letter in text for e in parser.feed(letter) if isinstance(e, CallArguments)]
        assert len(pieces) > 8


def test_calls_keep_the_models_own_ids():
    text = FORMATS["kimi_k2"].render([("f", {}), ("g", {})])
    assert [call.id for call in fold(run(maker("kimi_k2")(), [text])).calls] == [
        "functions.f:0",
        "functions.g:1",
    ]
    (call,) = fold(run(maker("mistral")(), ["[TOOL_CALLS]f[CALL_ID]abc123[ARGS]{}"])).calls
    assert call.id == "abc123"
