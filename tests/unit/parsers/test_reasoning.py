"""Every reasoning format: what comes out, and that it does not depend on how the text was cut."""

from __future__ import annotations

import pytest

from octavo.parsers.events import merge
from octavo.parsers.machine import REASONING
from tests.unit.parsers.driving import H, T, maker, run, shown, three_cuts, two_cuts

CASES: list[tuple[str, str | None, str, list[object]]] = []


def case(parsers: str, text: str, *expected: object, prompt: str | None = None) -> None:
    CASES.extend((parser, prompt, text, list(expected)) for parser in parsers.split())


OUTSIDE = "qwen3 glm45 deepseek_v3 kimi_k2 think granite"
THINK = OUTSIDE + " deepseek_r1"
OPENED = "<|im_start|>assistant\n<think>\n"
CLOSED = "<|im_start|>assistant\n<think>\n\n</think>\n\n"

case(THINK, "<think>\nhm 日本 🦜\n</think>\n\nSo 4.", H("hm 日本 🦜"), T("So 4."))
case(THINK, "\n<think>a</think>b", H("a"), T("b"))
case(THINK, "<think></think>b", T("b"))
case(THINK, "<think>\n\n</think>\n\nb c\n", T("b c\n"))
case(THINK, "<think>never closed </thin", H("never closed </thin"))
case(
    THINK,
    "<think>a < b <think> {x}</think>b <think> c </think>",
    H("a < b <think> {x}"),
    T("b <think> c </think>"),
)
case(THINK, "</think>\n\nb", T("b"))
case(THINK, "a\n</think>\nb", H("a"), T("b"), prompt=OPENED)
case(THINK, " a \n</think>", H("a"), prompt=OPENED)
case(THINK, "<think>\na</think>b", H("a"), T("b"), prompt=OPENED)
case(THINK, "only a thought\n", H("only a thought\n"), prompt=OPENED)
case(THINK, "b </think> c", T("b </think> c"), prompt=CLOSED)
case(THINK, "<think>a</think>b", H("a"), T("b"), prompt=CLOSED)
case(OUTSIDE, "No thought. <think>x</think>", T("No thought. <think>x</think>"))
case(OUTSIDE, "<thin", T("<thin"))
case(OUTSIDE, "  plain\n\ntext  ", T("  plain\n\ntext  "))
case("deepseek_r1", "hm </think> So.", H("hm"), T("So."))
case("deepseek_r1", "all of it", H("all of it"))
case("kimi_k2", "<think>a <|tool_calls_section_begin|>b", H("a"), T("<|tool_calls_section_begin|>b"))

case("mistral", "[THINK]a [b] {c}[/THINK]d", H("a [b] {c}"), T("d"))
case("mistral", "Let me. [THINK]a[/THINK] So.", T("Let me."), H("a"), T(" So."))
case("mistral", "[THINK]a[/THINK]b[THINK]c[/THINK]d", H("a"), T("b"), H("c"), T("d"))
case("mistral", "[THINK]cut off [/THI", H("cut off [/THI"))
case("mistral", "no thought [THIN", T("no thought [THIN"))
case("mistral", "[THINK][/THINK]d", T("d"))
case("mistral", "[THINK]ünï 🦜\n[/THINK]\nd", H("ünï 🦜"), T("d"))
case("mistral", "plain [1] and [2]", T("plain [1] and [2]"))
case("mistral", "a[/THINK]b", H("a"), T("b"), prompt="[INST]x[/INST][THINK]")
case("mistral", "[/THINK]b", T("b"))
case("mistral", "[THINK][THINK]a[/THINK]b", H("[THINK]a"), T("b"))

case("granite", "Here is my thought process: a\n\nHere is my response: b", H("a"), T("b"))
case("granite", "Here's my thought process:\na Here's my response:\nb", H("a"), T("b"))
case("granite", "Here is my thought process: a Here's my respons", H("a Here's my respons"))
case("granite", "Here is my answer: b", T("Here is my answer: b"))
case("granite", "So. Here is my thought process: a", T("So. Here is my thought process: a"))
case("granite", "<think>a</think><response>b</response>", H("a"), T("b"))
case("granite", "<think>a</think>\n<response> b", H("a"), T("b"))
case("granite", "Here is my thought process:Here is my response:b", T("b"))
case("granite", "Here is my thou", T("Here is my thou"))
case("granite", "<response>b</response> c", T("b c"))

case(
    "gpt_oss",
    "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>",
    H("a"),
    T("b"),
)
case(
    "gpt_oss",
    "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|>b",
    H("a\nb"),
)
case("gpt_oss", "<|channel|>analysis<|message|>a {x} <x> 🦜", H("a {x} <x> 🦜"))
case("gpt_oss", "<|channel|>final<|message|>b", T("b"))
case("gpt_oss", "<|channel|>analysis<|mess", T("<|channel|>analysis<|mess"))
case(
    "gpt_oss",
    "<|channel|>analysis<|message|><|end|>",
)
case("gpt_oss", "<|message|>b<|end|>", T("b"))
case("gpt_oss", "<|channel|>analysis<|message|>a<|channel|>final<|message|>b", H("a"), T("b"))
case("gpt_oss", "<|channel|>other<|message|>b<|end|> c", T("b c"))
case(
    "gpt_oss", "<|start|>assistant<|start|>assistant<|channel|>final<|message|>b", T("<|start|>assistant\nb")
)
case(
    "gpt_oss",
    "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>",
    H("a"),
    ("f", {}),
)
NAMES = sorted({parser for parser, *_ in CASES})  # fmt: skip


@pytest.mark.parametrize(("parser", "prompt", "text", "expected"), CASES)
def test_what_comes_out(parser, prompt, text, expected):
    assert shown(run(maker(reasoning=parser, prompt=prompt)(), [text])) == expected


@pytest.mark.parametrize("name", NAMES)
def test_cuts_do_not_matter(name):
    texts = [(prompt, text) for parser, prompt, text, _ in CASES if parser == name]
    assert len(texts) >= 10
    for prompt, text in texts:
        make = maker(reasoning=name, prompt=prompt)
        want = run(make(), [text])
        for parts in (*two_cuts(text), *three_cuts(text, 300), list(text)):
            assert run(make(), parts) == want, parts


@pytest.mark.parametrize("name", NAMES)
def test_nothing_waits_longer_than_it_must(name):
    for parser, prompt, text, _ in CASES:
        if parser == name:
            slow, said = maker(reasoning=name, prompt=prompt)(), []
            for k, letter in enumerate(text, 1):
                said.extend(slow.feed(letter))
                assert merge(said) == merge(maker(reasoning=name, prompt=prompt)().feed(text[:k]))


def test_every_parser_is_tested():
    tested = {id(REASONING.get(name)) for name in NAMES}
    assert {id(make) for _, make in REASONING} == tested
