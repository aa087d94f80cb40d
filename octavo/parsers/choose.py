"""Parser names for a chat template, from what it says. A pure function over a table.

A template writes calls and thoughts of earlier turns the way the model writes new ones, so its
text gives the format away. The first line of a table whose words all occur wins.
"""

from __future__ import annotations

from typing import NamedTuple


class Names(NamedTuple):
    """Names in the two registries; None where the template shows no such format."""

    tools: str | None
    reasoning: str | None


Table = tuple[tuple[str, tuple[str, ...]], ...]

TOOL_WORDS: Table = (
    ("gpt_oss", ("<|channel|>", "<|message|>")),
    ("kimi_k2", ("<|tool_call_argument_begin|>",)),
    ("kimi_k2", ("<|im_middle|>", "tool_declare")),
    ("deepseek_v3", ("<｜tool▁call▁begin｜>", "```json")),
    ("deepseek_v31", ("<｜tool▁call▁begin｜>",)),
    ("glm45", ("<arg_key>",)),
    ("qwen3_coder", ("<function=", "<parameter=")),
    ("mistral", ("[TOOL_CALLS]",)),
    ("phi4_mini_json", ("functools[",)),
    ("phi4_mini_json", ("<|tool|>", "<|/tool|>")),
    ("hermes", ("<|start_of_role|>", "</tool_call>")),
    ("granite", ("<|start_of_role|>", "<|tool_call|>")),
    ("granite", ("<function_call>", "<|function_call_library|>")),
    ("llama4_pythonic", ("<|header_start|>", "func_name1(")),
    ("pythonic", ("func_name1(",)),
    ("pythonic", ("func_name(",)),
    ("llama3_json", ("<|python_tag|>",)),
    ("llama3_json", ('"parameters": dictionary of argument name',)),
    ("hermes", ("<tool_call>",)),
)

REASONING_WORDS: Table = (
    ("gpt_oss", ("<|channel|>", "<|message|>")),
    ("mistral", ("[THINK]",)),
    ("granite", ("Here is my thought process",)),
    ("granite", ("<|start_of_role|>", "<think>")),
    ("kimi_k2", ("<|im_middle|>", "<think>")),
    ("glm45", ("[gMASK]", "<think>")),
    ("deepseek_v3", ("<｜Assistant｜>", "thinking", "</think>")),
    ("deepseek_r1", ("<｜Assistant｜>", "</think>")),
    ("qwen3", ("<think>",)),
    ("qwen3", ("</think>",)),
)


def choose(template: str) -> Names:
    """The parsers of the model whose chat template this is."""
    return Names(_first(TOOL_WORDS, template), _first(REASONING_WORDS, template))


def words(name: str) -> frozenset[str]:
    """By what a format is known, its special tokens among them; empty for one this table lacks."""
    rows = (*TOOL_WORDS, *REASONING_WORDS)
    return frozenset(word for known, found in rows if known == name for word in found)


def _first(table: Table, template: str) -> str | None:
    return next((name for name, words in table if all(word in template for word in words)), None)
