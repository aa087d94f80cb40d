"""How each model writes calls, as its chat template and model card show it, and ten scenarios for all."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tests.unit.parsers.driving import T

Calls = Sequence[tuple[str, dict[str, Any]]]


def dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def hermes(calls: Calls) -> str:
    return "\n".join(
        f'<tool_call>\n{{"name": "{n}", "arguments": {dump(a)}}}\n</tool_call>' for n, a in calls
    )


def objects(calls: Calls, key: str = "arguments") -> list[str]:
    return [f'{{"name": "{n}", "{key}": {dump(a)}}}' for n, a in calls]


def granite(calls: Calls) -> str:
    return "<|tool_call|>[" + ", ".join(objects(calls)) + "]"


def phi4(calls: Calls) -> str:
    return "functools[" + ", ".join(objects(calls)) + "]"


def phi4_tokens(calls: Calls) -> str:
    return "<|tool_call|>[" + ",".join(objects(calls)) + "]<|/tool_call|>"


def llama3(calls: Calls) -> str:
    return "<|python_tag|>" + "; ".join(objects(calls, "parameters"))


def mistral_old(calls: Calls) -> str:
    return "[TOOL_CALLS] [" + ", ".join(o[:-1] + ', "id": "a1b2c3d4e"}' for o in objects(calls)) + "]"


def mistral(calls: Calls) -> str:
    return "".join(f"[TOOL_CALLS]{n}[ARGS]{dump(a)}" for n, a in calls)


def mistral_v11(calls: Calls) -> str:
    return "".join(f"[TOOL_CALLS]{n}{dump(a)}" for n, a in calls)


def deepseek_v3(calls: Calls) -> str:
    body = "\n".join(
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{n}\n```json\n{dump(a)}\n```<｜tool▁call▁end｜>"
        for n, a in calls
    )
    return f"<｜tool▁calls▁begin｜>{body}<｜tool▁calls▁end｜>"


def deepseek_v31(calls: Calls) -> str:
    body = "".join(f"<｜tool▁call▁begin｜>{n}<｜tool▁sep｜>{dump(a)}<｜tool▁call▁end｜>" for n, a in calls)
    return f"<｜tool▁calls▁begin｜>{body}<｜tool▁calls▁end｜>"


def kimi_k2(calls: Calls) -> str:
    body = "".join(
        f"<|tool_call_begin|>functions.{n}:{i}<|tool_call_argument_begin|>{dump(a)}<|tool_call_end|>"
        for i, (n, a) in enumerate(calls)
    )
    return f"<|tool_calls_section_begin|>{body}<|tool_calls_section_end|>"


def bare(value: Any) -> str:
    return value if isinstance(value, str) else dump(value)


def qwen3_coder(calls: Calls) -> str:
    def one(name: str, arguments: dict[str, Any]) -> str:
        body = "".join(f"<parameter={k}>\n{bare(v)}\n</parameter>\n" for k, v in arguments.items())
        return f"<tool_call>\n<function={name}>\n{body}</function>\n</tool_call>"

    return "\n".join(one(n, a) for n, a in calls)


def glm45(calls: Calls) -> str:
    def one(name: str, arguments: dict[str, Any]) -> str:
        body = "".join(
            f"<arg_key>{k}</arg_key>\n<arg_value>{bare(v)}</arg_value>\n" for k, v in arguments.items()
        )
        return f"<tool_call>{name}\n{body}</tool_call>"

    return "\n".join(one(n, a) for n, a in calls)


def pythonic(calls: Calls) -> str:
    body = ", ".join(f"{n}({', '.join(f'{k}={v!r}' for k, v in a.items())})" for n, a in calls)
    return f"<|python_start|>[{body}]<|python_end|>"


def gpt_oss(calls: Calls) -> str:
    return "".join(
        f"<|start|>assistant<|channel|>commentary to=functions.{n} <|constrain|>json<|message|>{dump(a)}<|call|>"
        for n, a in calls
    )


class Format(NamedTuple):
    parser: str
    render: Callable[[Calls], str]
    inside: str  # this format's tags, as a value may quote them
    part: str  # the beginning of a tag


FORMATS: dict[str, Format] = {
    "hermes": Format("hermes", hermes, '</tool_call>{"<tool_call>', "<tool_ca"),
    "granite": Format("granite", granite, '<|tool_call|>[{"name"]', "<|tool_"),
    "phi4": Format("phi4_mini_json", phi4, 'functools[{"a"}]', "functo"),
    "phi4_tokens": Format("phi4_mini_json", phi4_tokens, "<|/tool_call|>]", "<|tool"),
    "llama3": Format("llama3_json", llama3, '<|python_tag|>{"name": ;', "<|pyth"),
    "mistral_old": Format("mistral", mistral_old, "[TOOL_CALLS] [{]}", "[TOOL_"),
    "mistral": Format("mistral", mistral, "[TOOL_CALLS]f[ARGS]{", "[TOOL"),
    "mistral_v11": Format("mistral", mistral_v11, "[TOOL_CALLS]f{}", "[TO"),
    "deepseek_v3": Format("deepseek_v3", deepseek_v3, "```<｜tool▁call▁end｜>", "<｜tool▁call"),
    "deepseek_v31": Format("deepseek_v31", deepseek_v31, "<｜tool▁call▁end｜>", "<｜tool"),
    "kimi_k2": Format("kimi_k2", kimi_k2, "<|tool_call_end|>", "<|tool_calls_sec"),
    "qwen3_coder": Format("qwen3_coder", qwen3_coder, "</function></tool_call><parameter=x>", "<tool_"),
    "glm45": Format("glm45", glm45, "<tool_call><arg_key>k</arg_key>", "<tool_cal"),
    "pythonic": Format("pythonic", pythonic, "<|python_end|>)] '", "<|python_st"),
    "gpt_oss": Format("gpt_oss", gpt_oss, "<|call|><|end|>{", "<|sta"),
}

UNICODE = {"s": 'naïve 日本 🦜 "q" \\ \n\t</x>', "n": 7}
NESTED = {"x": {"a": [1, {"b": "}]"}, []], "c": {}}, "n": -3}


def scenarios(f: Format) -> list[tuple[str, list[object]]]:
    """(text, what must come out), for every format alike."""
    one = f.render([("get_weather", {"city": "Paris"})])
    many: Calls = [("f", {"n": 1}), ("g", {}), ("f", {"s": "two"})]
    return [
        ("No calls: a < b, [x] {y} <b> ünï 🦜.", [T("No calls: a < b, [x] {y} <b> ünï 🦜.")]),
        (" Lines:\r\n\tof\ranything\x00\n ", [T(" Lines:\r\n\tof\ranything\x00\n ")]),
        (one, [("get_weather", {"city": "Paris"})]),
        ("Let me see.\n" + one, [T("Let me see."), ("get_weather", {"city": "Paris"})]),
        (one + "\nDone.", [("get_weather", {"city": "Paris"}), T("Done.")]),
        ("A " + one + " B", [T("A"), ("get_weather", {"city": "Paris"}), T(" B")]),
        (f.render(many), list(many)),
        (f.render([("f", UNICODE)]), [("f", UNICODE)]),
        (f.render([("f", NESTED)]), [("f", NESTED)]),
        (f.render([("f", {"s": f.inside})]), [("f", {"s": f.inside})]),
        (f.render([("g", {})]), [("g", {})]),
        (f.render([("unknown_tool", {"s": "x"})]), [("unknown_tool", {"s": "x"})]),
        ("It ends in " + f.part, [T("It ends in " + f.part)]),
        (f"{f.part} {f.part}{one}", [T(f"{f.part} {f.part}"), ("get_weather", {"city": "Paris"})]),
    ]


def damaged(f: Format) -> list[str]:
    """Malformed and truncated texts: what must come out differs, that nothing is lost does not."""
    one = f.render([("get_weather", {"city": "Köln", "days": 3})])
    two = f.render([("f", {"s": "a"}), ("f", {"n": 2})])
    fifth = len(one) // 5
    return [
        *(one[: fifth * k] for k in (1, 2, 3, 4)),
        "x " + one[:-1] + "!",
        one.replace("get_weather", "get weather"),
        one.replace('"', "'"),
        one.replace("{", "", 1),
        one[:fifth] + "??" + one[fifth:],
        one.replace("city", ""),
        two[: len(two) // 2] + two,
        f.part + two[3:],
    ]
