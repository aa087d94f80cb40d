"""Names of parsers out of what chat templates say."""

from __future__ import annotations

import pytest

from octavo.parsers.choose import REASONING_WORDS, TOOL_WORDS, choose
from octavo.parsers.machine import REASONING, TOOLS


@pytest.mark.parametrize(
    ("template", "tools", "reasoning"),
    [
        ("{{ '<|im_start|>' + m.role + '\\n' + m.content }}", None, None),
        ("...<tool_call>\\n{\"name\": <function-name>...</tool_call>...", "hermes", None),
        ("...<tool_call>...content.split('</think>')...<think>\\n\\n</think>", "hermes", "qwen3"),
        ("<tool_call>\\n<function=x>\\n<parameter=y>\\n", "qwen3_coder", None),
        ("[gMASK]<sop> <tool_call>{name}\\n<arg_key> <think></think>", "glm45", "glm45"),
        ("<|im_system|>tool_declare<|im_middle|>", "kimi_k2", None),
        ("<|im_middle|><|tool_call_begin|>{{id}}<|tool_call_argument_begin|><think>", "kimi_k2", "kimi_k2"),
        ("<｜Assistant｜><｜tool▁call▁begin｜>{{t}}<｜tool▁sep｜>\\n```json\\n ...split('</think>')", "deepseek_v3", "deepseek_r1"),
        ("{% if thinking %}<think>{% else %}</think><｜Assistant｜><｜tool▁call▁begin｜>", "deepseek_v31", "deepseek_v3"),
        ("[INST] [TOOL_CALLS] [ [/INST]", "mistral", None),
        ("[SYSTEM_PROMPT][THINK][/THINK][TOOL_CALLS][ARGS]", "mistral", "mistral"),
        ("prefix with functools[", "phi4_mini_json", None),
        ("'<|tool|>' + m.tools + '<|/tool|>'", "phi4_mini_json", None),
        ("<|start_of_role|> respond only with <|tool_call|> 'Here is my thought process:'", "granite", "granite"),
        ("<|start_of_role|> <tool_call></tool_call>", "hermes", None),
        ("<|header_start|> [func_name1(param1=value1)]", "llama4_pythonic", None),
        ("<|start_header_id|> [func_name1(params_name1=params_value1)]", "pythonic", None),
        ('{"name": function name, "parameters": dictionary of argument name and its value}', "llama3_json", None),
        ("<|start_header_id|> <|python_tag|>", "llama3_json", None),
        ("<|start|>assistant<|channel|>analysis<|message|>", "gpt_oss", "gpt_oss"),
    ],
)  # fmt: skip
def test_a_template_gives_its_formats_away(template, tools, reasoning):
    assert choose(template) == (tools, reasoning)


def test_every_name_in_the_tables_exists():
    for name, _ in TOOL_WORDS:
        TOOLS.get(name)
    for name, _ in REASONING_WORDS:
        REASONING.get(name)
