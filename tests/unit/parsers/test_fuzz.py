"""Random damage: no exception, nothing lost, cuts do not matter, and the work stays linear."""

from __future__ import annotations

import json
import random
import sys

import pytest

from octavo.parsers.chain import Chain
from octavo.parsers.machine import TOOLS as REGISTRY
from tests.unit.parsers.driving import H, content, maker, run
from tests.unit.parsers.formats import FORMATS

GREEK = "αβγδεζηθικλμνξοπρστυφχψω"  # stands in payload only, so syntax can be told from it
SNIPPETS = [
    "<tool_call>", "</tool_call>", '"', "'", "\\", "{", "}", "[", "]", "(", ")", ",", ":", "<", ">", "\n", " ", "null",
    '{"name": "g"}', "</function>", "<parameter=", "<|end|>", "<|start|>", "<|channel|>", "<|message|>", "[TOOL_CALLS]",
    "[ARGS]", "<arg_key>", "</arg_value>", "<｜tool▁sep｜>", "<|tool_call_end|>", "```", "functools", "<think>", "</think>",
]  # fmt: skip
REASONING_TEXTS = {
    "qwen3": "<think>\nαβγ {δ}\n</think>\n\nεζ <η>",
    "deepseek_r1": "αβγ {δ}\n</think>\n\nεζ <η>",
    "kimi_k2": "<think>αβ</think>γ<|tool_calls_section_begin|>δ",
    "mistral": "α [THINK]β[/THINK] γ [THINK]δ",
    "granite": "Here is my thought process: αβ\nHere is my response: γδ<response>ε",
    "gpt_oss": "<|channel|>analysis<|message|>αβ<|end|><|start|>assistant<|channel|>final<|message|>γδ<|return|>",
}


def damage(text: str, rng: random.Random) -> str:
    for _ in range(rng.randint(1, 4)):
        i, j = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
        kind = rng.randrange(5)
        if kind == 0:
            text = text[:j]
        elif kind == 1:
            text = text[:i] + text[i + 1 :]
        elif kind == 2:
            text = text[:i] + rng.choice(SNIPPETS) + text[i:]
        elif kind == 3:
            text = text[:i] + text[i:j] + text[i:]
        else:
            text = text[:i] + text[i : i + 20][::-1] + text[i + 20 :]
    return text


def payload(text: str) -> list[str]:
    return sorted(c for c in text if c in GREEK)


def pieces(text: str, rng: random.Random) -> list[str]:
    out = []
    while text:
        n = min(rng.choice((1, 2, 3, 7, 30)), len(text))
        out.append(text[:n])
        text = text[n:]
    return out


def sources() -> list[tuple[str, str | None, str | None, str]]:
    calls = [("f", {"s": 'αβ "γ" <δ> {ε', "n": 1}), ("g", {}), ("f", {"x": {"ζ": ["η", {"θ": None}]}})]
    out = [(key, f.parser, None, "ικ\n" + f.render(calls) + "\nλ") for key, f in FORMATS.items()]
    out.append(("bare list", "pythonic", None, "[f(s='αβ', x={'γ': [1, 'δ']}), g(ε=None)] ζ"))
    out.append(
        ("bare object", "llama3_json", None, '{"name": "f", "parameters": {"s": "αβ"}}; {"name": "g"} γ')
    )
    out += [(key, None, key, text) for key, text in REASONING_TEXTS.items()]
    out.append(("chain", "hermes", "qwen3", "<think>αβ</think>γ" + FORMATS["hermes"].render(calls)))
    return out


SOURCES = sources()


@pytest.mark.parametrize(
    ("tools", "reasoning", "text"), [s[1:] for s in SOURCES], ids=[s[0] for s in SOURCES]
)
def test_random_damage(tools, reasoning, text):
    make = maker(tools, reasoning)
    for seed in range(100):
        rng = random.Random(seed)
        damaged = damage(text, rng)
        want = run(make(), [damaged])
        assert run(make(), pieces(damaged, rng)) == want, damaged
        assert run(make(), list(damaged)) == want, damaged
        if "gpt_oss" in (tools, reasoning):  # its headers are made of words, and not for clients
            assert set(payload(content(want))) <= set(payload(damaged))
        else:
            assert payload(content(want)) == payload(damaged), damaged


@pytest.mark.parametrize("name", sorted({f.parser for f in FORMATS.values()}))
def test_whole_calls_are_json_however_odd_the_values(name):
    rng = random.Random(name)
    alphabet = "ab\"\\'{}[]<>/\n\t é🦜|,:=" + "\u2028"
    for f in (f for f in FORMATS.values() if f.parser == name):
        for _ in range(40):
            value = "".join(rng.choice(alphabet) for _ in range(rng.randint(0, 30)))
            text = f.render([("f", {"s": value, "n": 1})])
            (*_, arguments, _) = run(maker(name)(), [text])
            assert json.loads(arguments.delta) == {"s": value, "n": 1}


UNITS = [
    "word ", " \n", "<", "<tool_call", "<tool_call>", "<tool_call>{", '<tool_call>{"name": "g"}</tool_call>', "[", "{", '{"name": "',
    '\\"', "functools[", "[TOOL_CALLS]", "[TOOL_CALLS]f[ARGS]{", "<function=f><parameter=s>", "</parameter", "<arg_key>",
    "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<|tool_call_begin|>", "<|tool_calls_section_begin|>", "<|python_start|>[",
    "<|channel|>", "<|start|>", "<|message|>", "<|end|>", "<think>", "[THINK]", "</think", "Here is my ",
]  # fmt: skip
OPENINGS = {
    "hermes": '<tool_call>{"name": "f", "arguments": {"s": "',
    "pythonic": "[f(x=",
    "qwen3_coder": "<function=f><parameter=n>",
    "glm45": "<tool_call>f\n<arg_key>n</arg_key><arg_value>",
    "gpt_oss": "<|channel|>commentary to=functions.f<|message|>",
}


def work(make, parts: list[str]) -> int:
    """Characters looked at, and functions called, while parsing."""
    parser = make()
    machines = [parser._reasoning, parser._tools] if isinstance(parser, Chain) else [parser]
    called = 0

    def count(frame: object, event: str, arg: object) -> None:
        nonlocal called
        called += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        for part in parts:
            parser.feed(part)
        parser.close()
    finally:
        sys.setprofile(before)
    return called + sum(machine.source.looked for machine in machines)


MAKERS = {f.parser: maker(f.parser) for f in FORMATS.values()} | {
    "think": maker(reasoning="qwen3"), "phrases": maker(reasoning="granite"), "again": maker(reasoning="mistral"),
    "chain": maker("mistral", "deepseek_r1"),
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_twice_the_text_is_twice_the_work(name):
    make = MAKERS[name]
    for opening in {"", OPENINGS.get(name, "")}:
        for unit in UNITS:
            size = -(-300 // len(unit))
            for cut in (list, lambda text: [text]):
                once = work(make, cut(opening + unit * size))
                twice = work(make, cut(opening + unit * size * 2))
                assert twice < 2.3 * once + 1500, (unit, once, twice)


def test_a_flood_is_cheap_in_one_piece():
    """20 kB of opened calls in one feed: a bounded number of looks at each character."""
    for name in sorted({f.parser for f in FORMATS.values()}):
        for unit in (
            "<tool_call>",
            "<function=f>",
            '{"name": "',
            "[TOOL_CALLS]",
            "<｜tool▁call▁begin｜>",
            "<|message|>",
        ):
            text = unit * (20_000 // len(unit))
            assert work(maker(name), [text]) < 400 * len(text)


def test_deep_nesting_ends_as_text_or_an_open_call():
    for opener in ("[", "{'a': ", "("):
        text = "[f(x=" + opener * 5_000
        assert payload(content(run(maker("pythonic")(), [text]))) == []
        assert len(content(run(maker("pythonic")(), [text]))) == len(text)
    deep = '<tool_call>{"name": "f", "arguments": ' + '{"a": ' * 5_000
    assert len(content(run(maker("hermes")(), [deep]))) == 6 * 5_000 + len("f")
    assert run(maker(reasoning="qwen3")(), ["<think>" * 10_000]) == [H("<think>" * 9_999)]


def test_the_registry_holds_every_format_once():
    assert set(REGISTRY.names()) >= {f.parser for f in FORMATS.values()}
