"""A conversation with tools in words, for templates that do not know them."""

from __future__ import annotations

import json

from octavo.front.teach import teach
from octavo.parsers.chain import build
from octavo.parsers.events import fold
from octavo.text.chat import clean_messages

TOOL = {
    "type": "function",
    "function": {"name": "go", "description": "Go.", "parameters": {"type": "object"}},
}
CALL = {"id": "1", "type": "function", "function": {"name": "go", "arguments": '{"to": "Köln"}'}}
TALK = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "Well.", "tool_calls": [CALL, CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "there"},
    {"role": "tool", "tool_call_id": "1", "content": "again"},
    {"role": "user", "content": "so?"},
]


def test_tools_are_told_in_the_first_message():
    told = teach(clean_messages([{"role": "user", "content": "hi"}]), [TOOL])
    assert [row["role"] for row in told] == ["system", "user"]
    assert json.dumps(TOOL["function"]) in told[0]["content"]
    told = teach(clean_messages([{"role": "system", "content": "Be brief."}, *TALK]), [TOOL])
    assert told[0]["content"].startswith("Be brief.\n\n") and len(told) == 5


def test_calls_and_results_become_text_that_reads_as_calls():
    told = teach(clean_messages(TALK), [])
    assert [row["role"] for row in told] == ["user", "assistant", "user", "user"]
    parser = build(tools="hermes")
    heard = fold([*parser.feed(told[1]["content"]), *parser.close()])
    assert heard.text == "Well."
    assert [(one.name, json.loads(one.arguments)) for one in heard.calls] == [("go", {"to": "Köln"})] * 2
    assert told[2]["content"].count("<tool_response>") == 2 and "again" in told[2]["content"]
    assert "tool_calls" not in told[1]


def test_a_conversation_without_tools_stays_as_it_is():
    rows = clean_messages([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}])
    assert teach(rows, []) == rows
