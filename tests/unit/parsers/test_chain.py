"""Reasoning and tools together."""

from __future__ import annotations

import pytest

from octavo.core.errors import NotFound
from octavo.parsers.chain import build
from octavo.parsers.machine import ToolChoice
from tests.unit.parsers.driving import H, T, maker, run, shown, three_cuts, two_cuts

CALL = '<tool_call>\n{"name": "f", "arguments": {"n": 1}}\n</tool_call>'
THOUGHT = '<think>\nI could use <tool_call>{"name": "g"}</tool_call>.\n</think>\n\n'

CASES = [
    (
        "hermes",
        "qwen3",
        THOUGHT + CALL,
        [H('I could use <tool_call>{"name": "g"}</tool_call>.'), ("f", {"n": 1})],
    ),
    ("hermes", "qwen3", "<think>a</think>\nb\n" + CALL + "\nc", [H("a"), T("b"), ("f", {"n": 1}), T("\nc")]),
    ("hermes", "deepseek_r1", "a</think>" + CALL, [H("a"), ("f", {"n": 1})]),
    ("hermes", "qwen3", "<think>a" + CALL, [H("a" + CALL)]),
    ("hermes", None, THOUGHT, [T("<think>\nI could use"), ("g", {}), T(" .\n</think>\n\n")]),
    (None, "qwen3", "<think>a</think>" + CALL, [H("a"), T(CALL)]),
    (None, None, " <think>a</think> ", [T(" <think>a</think> ")]),
    (
        "kimi_k2",
        "kimi_k2",
        "<think>a<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}",
        [H("a"), ("f", {})],
    ),
    ("mistral", "mistral", "[THINK]a[/THINK]b[TOOL_CALLS]f[ARGS]{}", [H("a"), T("b"), ("f", {})]),
    (
        "gpt_oss",
        "gpt_oss",
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b",
        [H("a"), T("b")],
    ),
]


@pytest.mark.parametrize(("tools", "reasoning", "text", "expected"), CASES)
def test_reasoning_first_then_tools(tools, reasoning, text, expected):
    make = maker(tools, reasoning)
    want = run(make(), [text])
    assert shown(want) == expected
    for parts in (*two_cuts(text), *three_cuts(text, 300), list(text)):
        assert run(make(), parts) == want, parts


def test_an_unknown_name_is_told():
    with pytest.raises(NotFound, match="hermes"):
        build(tools="hermez")
    with pytest.raises(NotFound, match="qwen3"):
        build(reasoning="qwen33")


def test_the_work_is_done_even_if_nobody_looks():
    parser = maker("hermes", "qwen3")()
    parser.feed("<think>a</think>b ")
    parser.feed(CALL)
    assert shown(list(parser.close())) == []
    assert parser.constraint((), ToolChoice()) is None
