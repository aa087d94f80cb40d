"""What chunks say: the same however they are cut, and bent to what the request allows."""

from __future__ import annotations

import json

import pytest

from octavo.config.serve import ServeConfig
from octavo.core.errors import NotFound, UserError
from octavo.front.answer import Chunk
from octavo.front.speech import Formats, Plan, Said, plan, voice
from octavo.front.tools import MOST_TOOLS, Definition, ToolUse, read_tools
from octavo.parsers.machine import ToolChoice
from octavo.text.chat import ChatTemplate
from tests.unit.parsers.driving import two_cuts

WEATHER = Definition(
    "get_weather", "Of a city.", {"properties": {"city": {"type": "string"}}, "required": ["city"]}
)
GO = Definition("go")
HERMES = (
    'Let me see.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "go", "arguments": {}}\n</tool_call>'
)
THINKING = f"<think>\nWhich city?\n</think>\n\n{HERMES}"
HARMONY = (
    "<|channel|>analysis<|message|>Which city?<|end|><|start|>assistant<|channel|>commentary "
    'to=functions.get_weather <|constrain|>json<|message|>{"city": "Köln"}<|call|>'
)
CALL = ("get_weather", '{"city": "Köln"}')


def use(mode="auto", parallel=True, tools=(WEATHER, GO), name="get_weather") -> ToolUse:
    return read_tools(tools, ToolChoice(mode, name if mode == "named" else "", parallel))


def listen(how: Plan, asked: ToolUse, parts, finish="stop", prompt=None):
    """(text, thought, [(name, arguments)], finish) of an answer that comes in parts; and its ids."""
    one = voice(how, asked, prompt)
    text, thought, end = "", "", None
    calls: dict[int, list[str]] = {}
    ids = []
    for n, part in enumerate(parts):
        said = one.feed(Chunk(index=0, text=part, finish_reason=finish if n == len(parts) - 1 else None))
        text, thought, end = text + said.text, thought + said.thought, said.finish
        for piece in said.calls:
            if piece.id is not None:
                assert piece.at not in calls and piece.name
                ids.append(piece.id)
                calls[piece.at] = [piece.name, ""]
            calls[piece.at][1] += piece.arguments
    return (text, thought, [tuple(call) for call in calls.values()], end), ids


@pytest.mark.parametrize(
    "how, answer, heard",
    [
        (Plan("hermes", None), HERMES, ("Let me see.", "", [CALL, ("go", "{}")], "tool_calls")),
        (
            Plan("hermes", "qwen3"),
            THINKING,
            ("Let me see.", "Which city?", [CALL, ("go", "{}")], "tool_calls"),
        ),
        (Plan("gpt_oss", "gpt_oss"), HARMONY, ("", "Which city?", [CALL], "tool_calls")),
        (
            Plan("llama3_json", None),
            '{"name": "get_weather", "parameters": {"city": "Köln"}}',
            ("", "", [CALL], "tool_calls"),
        ),
        (Plan("hermes", "qwen3"), "Just words <tool_call", ("Just words <tool_call", "", [], "stop")),
        (Plan(None, None), HERMES + "  ", (HERMES + "  ", "", [], "stop")),
    ],
)
def test_every_cut_says_the_same(how, answer, heard):
    for parts in [*two_cuts(answer), list(answer)]:
        assert listen(how, use(), parts)[0] == heard


def test_the_prompt_may_have_opened_the_thought():
    heard, _ = listen(Plan(None, "deepseek_r1"), ToolUse(), ["so", "</think>yes"], prompt="...<think>\n")
    assert heard == ("yes", "so", [], "stop")


def test_the_choice_bends_what_is_told():
    how = Plan("hermes", None)
    assert listen(how, use(parallel=False), [HERMES])[0][2] == [CALL]
    assert listen(how, use("named", tools=(WEATHER,)), [HERMES])[0][3] == "stop"
    assert listen(how, use("required"), [HERMES])[0][3] == "tool_calls"
    assert listen(how, use(), [HERMES[:80]], finish="length")[0][3] == "length"


def test_ids_are_the_models_own_or_new_ones():
    _, ids = listen(Plan("hermes", None), use(), [HERMES])
    assert len(set(ids)) == 2 and all(id.startswith("chatcmpl-tool-") for id in ids)
    _, (short,) = listen(Plan("mistral", None), use(), ['[TOOL_CALLS]go{"a": 1}'])
    assert len(short) == 9 and short.isalnum()
    text = '<|tool_call_begin|>functions.go:0<|tool_call_argument_begin|>{"a": 1}<|tool_call_end|>'
    assert listen(Plan("kimi_k2", None), use(), [text])[1] == ["functions.go:0"]


def test_tokens_of_thought_are_counted():
    one = voice(Plan(None, "qwen3"), ToolUse(), None)
    counts = []
    for part in ["<think>", "a", " b", "</think>", "c", "d"]:
        chunk = Chunk(index=0, text=part, token_ids=(1,))
        one.feed(chunk)
        counts.append(one.thought_tokens(chunk))
    assert counts[1:3] == [1, 1] and counts[4:] == [0, 0]


def test_empty_news_is_known_as_such():
    assert Said().empty and not Said(finish="stop").empty


# -- plans --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, template, names",
    [
        ({}, "{{ messages }}", ("hermes", None)),  # it is told of them in words
        ({}, "{{ tools }}<tool_call>{{ messages }}<think>", ("hermes", "qwen3")),
        ({}, "{{ tools }}", (None, None)),
        ({}, None, (None, None)),
        (
            {"tool_call_parser": "none", "reasoning_parser": "none"},
            "{{ tools }}<tool_call><think>",
            (None, None),
        ),
        (
            {"tool_call_parser": "mistral", "reasoning_parser": "granite"},
            "{{ tools }}",
            ("mistral", "granite"),
        ),
    ],
)
def test_formats(given, template, names):
    made = Formats.of(ServeConfig(**given), None if template is None else ChatTemplate(template))
    assert made[:2] == names


def test_special_tokens_are_shown_where_they_mark_something():
    def special(name: str, *tokens: str) -> bool:
        return Formats.of(ServeConfig(tool_call_parser=name), None, tokens).special

    assert special("mistral", "[TOOL_CALLS]") and not special("hermes", "<|im_end|>")
    assert special("openai") and not special("none", "[TOOL_CALLS]")


def test_unknown_parsers_are_told_at_start():
    with pytest.raises(NotFound, match="hermez"):
        Formats.of(ServeConfig(tool_call_parser="hermez"), None)
    with pytest.raises(NotFound, match="qwen33"):
        Formats.of(ServeConfig(reasoning_parser="qwen33"), None)


def test_the_model_may_only_choose_where_that_can_be_read():
    with pytest.raises(UserError, match="not known") as caught:
        plan(Formats(), use())
    assert caught.value.field == "tool_choice"
    with pytest.raises(UserError, match="does not let"):
        plan(Formats("hermes", None, may_choose=False), use())
    assert plan(Formats("hermes", "qwen3"), use("none")) == Plan(None, "qwen3")
    assert plan(Formats("hermes"), use()).constraint is None


def tags(made: Plan):
    assert made.constraint is not None
    return json.loads(made.constraint.text)["format"]["tags"]


@pytest.mark.parametrize("format", ["hermes", "gpt_oss", "pythonic", None])
def test_what_must_be_called_is_constrained_in_a_format_that_is_read(format):
    for mode, names in (("required", ["get_weather", "go"]), ("named", ["get_weather"])):
        asked = use(mode)
        made = plan(Formats(format), asked)
        assert made.tools == ("llama3_json" if format in (None, "pythonic") else format)
        found = tags(made)
        assert len(found) == len(names)
        for tag, name in zip(found, names, strict=True):
            assert listen(made, asked, [tag["begin"] + '{"city":"a"}' + tag["end"]])[0][2] == [
                (name, '{"city":"a"}')
            ]
        schema = found[0]["content"]["json_schema"]
        assert schema == {"type": "object", **WEATHER.parameters, "additionalProperties": False}
    empty = tags(plan(Formats(format), use("required")))[1]["content"]["json_schema"]
    assert empty["properties"] == {} and empty["additionalProperties"] is False


def test_strict_tools_are_enforced_where_the_model_chooses():
    asked = use(tools=(WEATHER._replace(strict=True), GO._replace(parameters=WEATHER.parameters)))
    made = plan(Formats("hermes"), asked)
    schemas = [tag["content"]["json_schema"] for tag in tags(made)]
    assert schemas == [
        {"type": "object", **WEATHER.parameters, "additionalProperties": False},
        {"type": "object"},
    ]


# -- tools --------------------------------------------------------------------------------


def deep(levels: int):
    return {"type": "object"} if levels == 0 else {"properties": {"a": deep(levels - 1)}}


@pytest.mark.parametrize(
    "tools, choice, field, says",
    [
        ((), ToolChoice("auto"), "tools", "empty"),
        ((GO,) * (MOST_TOOLS + 1), ToolChoice("auto"), "tools", str(MOST_TOOLS)),
        ((GO, GO), ToolChoice("auto"), "tools[1].function.name", "twice"),
        ((GO._replace(name="a b"),), ToolChoice("auto"), "tools[0].function.name", "letters"),
        ((GO._replace(name="a" * 129),), ToolChoice("auto"), "tools[0].function.name", "128"),
        (
            (GO._replace(description="a" * 65537),),
            ToolChoice("auto"),
            "tools[0].function.description",
            "65536",
        ),
        ((GO._replace(parameters=deep(40)),), ToolChoice("auto"), "tools[0].function.parameters", "levels"),
        (
            (GO._replace(parameters={"type": "array"}),),
            ToolChoice("auto"),
            "tools[0].function.parameters",
            "object",
        ),
        ((GO,), ToolChoice("named", "stop"), "tool_choice", "go"),
        ((GO._replace(parameters={"enum": ["x"] * 300_000}),), ToolChoice("auto"), "tools", "1048576"),
    ],
)
def test_bad_tools(tools, choice, field, says):
    with pytest.raises(UserError) as caught:
        read_tools(tools, choice)
    assert caught.value.field == field and says in f"{caught.value.message} {caught.value.hint}"


def test_templates_see_what_models_were_trained_on():
    first, second = use(tools=(WEATHER._replace(strict=True), GO)).shown
    assert first["function"] == {
        "name": "get_weather", "description": "Of a city.", "parameters": WEATHER.parameters
    }  # fmt: skip
    assert second["function"] == {"name": "go", "parameters": {"type": "object", "properties": {}}}


def test_turns_keep_the_order():
    """However the text is cut; and they hold what `feed` says."""
    asked = use()
    how = Plan("hermes", "qwen3")
    text = f"<think>hm</think>One. {HERMES}"
    for parts in two_cuts(text):
        one, other = voice(how, asked, None), voice(how, asked, None)
        turns, whole = [], []
        for at, part in enumerate(parts):
            chunk = Chunk(index=0, text=part, finish_reason="stop" if at == len(parts) - 1 else None)
            turns += one.turns(chunk)
            whole.append(other.feed(chunk))
        kinds = [
            "thought" if t.thought else "text" if t.text else "call"
            for t in turns
            if not t._replace(finish=None).empty
        ]
        runs = [kind for at, kind in enumerate(kinds) if at == 0 or kinds[at - 1] != kind]
        assert runs == ["thought", "text", "call"]
        assert all((bool(t.text) + bool(t.thought) + len(t.calls)) <= 1 for t in turns)
        for field in ("text", "thought"):
            assert "".join(getattr(t, field) for t in turns) == "".join(getattr(t, field) for t in whole)
        arguments = ["".join(p.arguments for t in said for p in t.calls) for said in (turns, whole)]
        assert arguments[0] == arguments[1]
        assert [t.finish for t in turns if t.finish] == ["tool_calls"]
