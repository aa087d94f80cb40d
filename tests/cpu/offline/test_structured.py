"""Structured output without a server, and beside every other feature: what is said does not depend on how the
engine runs, and counters show that each way was taken."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest

from octavo import LLM, SamplingParams, StructuredOutputsParams
from octavo.core.errors import Unsupported, UserError
from octavo.core.events import CoreStats
from octavo.core.facts import ModelFiles

SCHEMA = {
    "type": "object",
    "properties": {
        "full name": {"type": "string", "minLength": 3, "maxLength": 12},
        "favourite colour": {"enum": ["dark green", "light blue"]},
        "years of age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["full name", "favourite colour", "years of age"],
    "additionalProperties": False,
}
TAG = {
    "triggers": ["<call>"],
    "structures": [{"begin": "<call>", "schema": {"type": "object", "properties": {"n": {"enum": [1, 2]}},
                    "required": ["n"], "additionalProperties": False}, "end": "</call>"}],
}  # fmt: skip
ONCE = {
    "format": {
        "type": "triggered_tags",
        "triggers": ["<call>"],
        "at_least_one": True,
        "tags": [{"begin": "<call>", "end": "</call>", "content": {"type": "json_schema", "json_schema": TAG["structures"][0]["schema"]}}],
    }
}  # fmt: skip
FORMS: dict[str, dict[str, Any]] = {
    "json": {"json": SCHEMA},
    "tight": {"json": json.dumps(SCHEMA), "disable_any_whitespace": True},
    "spaced": {"json": {"type": "array", "items": {"const": 7}, "minItems": 2, "maxItems": 2}, "whitespace_pattern": " {1,3}"},
    "open": {"json": {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}, "disable_additional_properties": True},
    "regex": {"regex": "[0-9]{3}-the quick brown fox-[a-f]{4}"},
    "choice": {"choice": ["certainly yes", "certainly not", "perhaps"]},
    "ebnf": {"grammar": 'root ::= "SELECT " col " FROM users ORDER BY " col\ncol ::= "age" | "name"'},
    "lark": {"grammar": 'start: "The number is " num ", and that is all."\nnum: /[0-9]{1,3}/'},
}  # fmt: skip
# longer than a page, so that it can be found in the prefix cache
PROMPT = "Here is a form, to be filled in with care and without a word too much. " * 6 + "An example of it: "


def fits(name: str, text: str) -> bool:
    if name in ("json", "tight"):
        jsonschema.validate(json.loads(text), SCHEMA)
        return (
            name == "json" or json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False) == text
        )
    if name == "spaced":
        return re.fullmatch(r"\[ {0,3}7 {0,3}, {0,3}7 {0,3}\]", text) is not None
    if name == "open":
        return json.loads(text) == {"a": None}
    patterns = {
        "regex": FORMS["regex"]["regex"],
        "choice": "certainly yes|certainly not|perhaps",
        "ebnf": "SELECT (age|name) FROM users ORDER BY (age|name)",
        "lark": r"The number is [0-9]{1,3}, and that is all\.",
    }
    return re.fullmatch(patterns[name], text) is not None


def ask(form: dict[str, Any], **sampling: Any) -> SamplingParams:
    fields = {"temperature": 0.0, "max_tokens": 100, **sampling}
    return SamplingParams(structured_outputs=StructuredOutputsParams(**form), **fields)


def workload() -> list[SamplingParams]:
    """Every form, greedy and seeded, and every setting that edits logits or counts tokens."""
    json_form = FORMS["json"]
    return [
        *(ask(form) for form in FORMS.values()),
        *(ask(form, temperature=1.0, seed=n) for n, form in enumerate(FORMS.values())),
        ask(json_form, presence_penalty=1.0, frequency_penalty=0.5, repetition_penalty=1.3),
        ask(json_form, temperature=0.9, seed=3, top_p=0.9, top_k=40, min_p=0.01),
        ask(json_form, min_tokens=25, max_tokens=60),
        ask(json_form, max_tokens=9),
        ask(json_form, stop=["colour"], include_stop_str_in_output=True),
        ask(json_form, logprobs=2, temperature=1.0, seed=9),
        ask(json_form, n=3, temperature=1.0, seed=11),
        ask(json_form, logit_bias={30: 2.0}, bad_words=["John"], temperature=1.0, seed=5),
        SamplingParams(temperature=0, max_tokens=24),
        SamplingParams(temperature=1, seed=2, max_tokens=24, logprobs=1),
    ]  # fmt: skip


def said(llm: LLM) -> list[Any]:
    """Tokens, texts, reasons and log-probabilities of the workload."""
    params = workload()
    outputs = llm.generate([PROMPT] * len(params), params, use_tqdm=False)
    return [
        (list(one.token_ids), one.text, one.finish_reason, one.stop_reason, one.cumulative_logprob, one.logprobs)
        for output in outputs
        for one in output.outputs
    ]  # fmt: skip


@contextlib.contextmanager
def engine(**settings: Any) -> Iterator[LLM]:
    with LLM(
        **{"max_model_len": 256, "max_num_seqs": 32, "kv_cache_memory_bytes": "64MiB", **settings}
    ) as made:
        yield made


@pytest.fixture(scope="module")
def reference(default_model: ModelFiles) -> list[Any]:
    """One plan at a time, one token a step, every prompt computed."""
    with engine(async_scheduling=False, jump_ahead=False, enable_prefix_caching=False) as llm:
        found = said(llm)
        stats = llm.stats()
        assert stats.masked > 0 and stats.jumped == stats.overlapped == stats.prefix_hits == 0
    return found


WAYS: dict[str, tuple[dict[str, Any], Callable[[CoreStats], bool]]] = {
    "two plans in flight": ({"jump_ahead": False}, lambda s: s.overlapped > 0 and not s.jumped),
    "jumps": ({"async_scheduling": False}, lambda s: s.jumped > 50 and not s.overlapped),
    "jumps, two plans": ({}, lambda s: s.jumped > 50 and s.overlapped > 0 and s.prefix_hits > 0),
    "few pages": (
        {"kv_cache_memory_bytes": "12MiB", "max_num_seqs": 40, "enable_prefix_caching": False},
        lambda s: s.jumped > 0 and s.preemptions > 0,
    ),
    "small steps": ({"max_num_batched_tokens": 24}, lambda s: s.jumped > 0),
}


@pytest.mark.parametrize("name", WAYS)
def test_what_is_said_does_not_depend_on_how_the_engine_runs(reference: list[Any], name: str) -> None:
    settings, shown = WAYS[name]
    with engine(**settings) as llm:
        assert said(llm) == reference
        stats = llm.stats()
        assert stats.masked > 0 and shown(stats), stats
        assert stats.forks > 0  # n > 1


def test_every_form_holds(reference: list[Any]) -> None:
    names = [*FORMS, *FORMS]
    for name, (_, text, finish, *_) in zip(names, reference, strict=False):
        assert finish == "stop" and fits(name, text), (name, text)


def test_jumps_save_steps(default_model: ModelFiles) -> None:
    steps = {}
    for jump in (True, False):
        with engine(jump_ahead=jump) as llm:
            llm.generate(PROMPT, ask(FORMS["tight"]), use_tqdm=False)
            steps[jump] = llm.stats().steps
    assert steps[True] < 0.8 * steps[False], steps


def test_chat_keeps_to_the_form_too(llm: LLM) -> None:
    talk = [{"role": "user", "content": "Describe a person as JSON."}]
    before = llm.stats().masked
    (one,) = llm.chat(talk, ask(FORMS["json"]), use_tqdm=False)
    jsonschema.validate(json.loads(one.outputs[0].text), SCHEMA)
    assert llm.stats().masked > before


def test_a_structural_tag_holds_from_its_trigger_on(llm: LLM) -> None:
    prompt = 'Numbers: <call>{"n": 1}</call> <call>{"n": 2}</call> and so on.\n'
    for tag in (TAG, json.dumps(ONCE)):
        params = ask({"structural_tag": tag}, max_tokens=60, temperature=0.7, seed=1)
        outputs = llm.generate([prompt] * 4, params, use_tqdm=False)
        texts = [output.outputs[0].text for output in outputs]
        for text in texts:
            calls = re.findall(r"(?s)<call>(.*?)</call>", text)
            assert all(json.loads(call)["n"] in (1, 2) for call in calls), text
            assert calls or tag is TAG, text


def test_a_setting_that_forbids_what_must_come_ends_the_request(llm: LLM) -> None:
    """The grammar leaves one token and bad_words forbids it: an error, beside a neighbour that goes on."""
    params = [ask({"regex": "[a-c]{2} and nothing else"}, bad_words=[" nothing"]), ask(FORMS["tight"])]
    jumped = llm.stats().jumped
    bad, good = llm.generate([PROMPT] * 2, params, use_tqdm=False)
    assert bad.outputs[0].finish_reason == "error"
    assert fits("tight", good.outputs[0].text) and llm.stats().jumped > jumped


def test_a_bad_form_is_refused_before_anything_runs(llm: LLM) -> None:
    steps = llm.stats().steps
    with pytest.raises(UserError, match="uniqueItems"):
        llm.generate(PROMPT, ask({"json": {"type": "array", "uniqueItems": True}}), use_tqdm=False)
    with pytest.raises(UserError, match="json and regex"):
        StructuredOutputsParams(json={}, regex="a")
    assert llm.stats().steps == steps


OPENED = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: <think>\n{% endif %}"
)


@pytest.mark.parametrize("form", [None, "tight", "choice"])
@pytest.mark.parametrize("budget", [0, 7])
def test_a_thought_is_cut_short_and_the_form_holds_after_it(llm: LLM, form: str | None, budget: int) -> None:
    params = SamplingParams(temperature=0.7, seed=4, max_tokens=90) if form is None else ask(FORMS[form])
    params.thinking_token_budget = budget
    jumped = llm.stats().jumped
    talk = [{"role": "user", "content": "Think about it for a long time."}]
    (one,) = llm.chat(talk, params, use_tqdm=False, chat_template=OPENED)
    thought, closed, answer = one.outputs[0].text.partition("</think>")
    assert closed and llm.stats().jumped > jumped  # the closing tag was certain
    close = llm.get_tokenizer().encode("</think>")
    at = next(
        n
        for n in range(len(close) + budget + 1)
        if list(one.outputs[0].token_ids[n : n + len(close)]) == close
    )
    assert at == budget and (thought or not budget)
    assert form is None or fits(form, answer.lstrip())


def test_a_budget_needs_a_known_way_to_think(llm: LLM) -> None:
    params = SamplingParams(max_tokens=5, thinking_token_budget=3)
    with pytest.raises(Unsupported, match="thinking_token_budget"):
        llm.generate(PROMPT, params, use_tqdm=False)


def test_another_backend_holds_the_same_forms(default_model: ModelFiles) -> None:
    names = ["json", "tight", "regex", "choice", "ebnf"]
    params = [ask(FORMS[name], temperature=t, seed=3) for name in names for t in (0.0, 1.0)]
    params += [
        ask(FORMS["json"], n=2, temperature=1.0, seed=1, presence_penalty=0.5, min_tokens=20, logprobs=1)
    ]
    with engine(structured_outputs_backend="xgrammar") as llm:
        outputs = llm.generate([PROMPT] * len(params), params, use_tqdm=False)
        for output, name in zip(outputs, [*(name for name in names for _ in (0, 1)), "json"], strict=True):
            for one in output.outputs:
                assert one.finish_reason == "stop" and fits(name, one.text), (name, one.text)
        stats = llm.stats()
        assert stats.masked > 0 and stats.overlapped > 0 and stats.jumped == 0
        with pytest.raises(UserError, match="EBNF"):
            llm.generate(PROMPT, ask(FORMS["lark"]), use_tqdm=False)
