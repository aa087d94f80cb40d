"""Bad values of request fields, and bodies that are none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from octavo.server.openai.types import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from tests.bad.row import HI, Row, field
from tests.server.fake_engine import CONTEXT, MODEL

CHAT, TEXT, TOKENIZE, DETOKENIZE = "/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"
HUGE = 10**40

# remedies
NATURAL = "an integer from 0 to 2147483647"
COUNT = "an integer from 1 to 2147483647"
OR_ALL = "an integer from -1 to 2147483647"
KNOWN = "token ids of this model are 0 to 263"
TYPES = "/openapi.json"
SHORTEN = "shorten the prompt or raise --max-model-len"
FEWER = "ask for fewer or raise --max-logprobs"
ROLES = "system, user, assistant or tool"
CHANGE = "change it and try again"
SOMETHING = "send at least one token or character"
POSITIVE = "a finite number, above 0"
CHOICES = "an integer from 1 to 16384"
WARMTH = "a finite number, at least 0, at most 2"
PENALTY = "a finite number, at least -2, at most 2"
SHARE = "a finite number, at least 0, at most 1"
LEAVE = "leave it out"
DRAWN = "leave it out, or set use_beam_search to false"
NAMES = "valid names: tiny"
SALT = "text of 1 to 1024 characters"
EITHER = "one of them, not both"
ONE_OF = "give exactly one of json, regex, choice"
ABSENT = "not available"
ID = "1 to 128 letters, digits, dots, colons"
FORMS = "send a text, a list of texts, a list of ids"

# (what is laid over a good body, field, what is said, remedy)
SHARED = [
    ({"model": None}, "model", "missing", NAMES),
    ({"model": 5}, "model", ("str", "int"), TYPES),
    ({"n": 0}, "n", "n is 0", CHOICES),
    ({"n": -1}, "n", "n is -1", CHOICES),
    ({"n": HUGE}, "n", "n is a huge number", CHOICES),
    ({"n": 16384, "temperature": 1.0}, "n", "2048", "--max-queue"),
    ({"n": "3"}, "n", ("int", "str"), TYPES),
    ({"n": 1.5}, "n", ("int", "float"), TYPES),
    ({"n": True}, "n", ("int", "bool"), TYPES),
    ({"n": 2, "temperature": 0}, "n", "greedy", "raise temperature above 0, or set n to 1"),
    ({"temperature": -0.1}, "temperature", "temperature is -0.1", WARMTH),
    ({"temperature": 2.1}, "temperature", "temperature is 2.1", WARMTH),
    ({"temperature": HUGE}, "temperature", "temperature is 1e+40", WARMTH),
    ({"temperature": "hot"}, "temperature", ("float", "str"), TYPES),
    ({"temperature": []}, "temperature", "array", TYPES),
    ({"top_p": 0}, "top_p", "top_p is 0", "a finite number, above 0, at most 1"),
    ({"top_p": 1.01}, "top_p", "top_p is 1.01", "a finite number, above 0, at most 1"),
    ({"top_k": -2}, "top_k", "top_k is -2", OR_ALL),
    ({"top_k": HUGE}, "top_k", "top_k is a huge number", OR_ALL),
    ({"min_p": -0.5}, "min_p", "min_p is -0.5", SHARE),
    ({"min_p": 2}, "min_p", "min_p is 2", SHARE),
    ({"presence_penalty": 2.5}, "presence_penalty", "presence_penalty is 2.5", PENALTY),
    ({"frequency_penalty": -3}, "frequency_penalty", "frequency_penalty is -3", PENALTY),
    ({"repetition_penalty": 0}, "repetition_penalty", "repetition_penalty is 0", POSITIVE),
    ({"repetition_penalty": -1}, "repetition_penalty", "repetition_penalty is -1", POSITIVE),
    ({"seed": HUGE}, "seed", "seed is a huge number", "an integer from -9223372036854775808 to"),
    ({"seed": "x"}, "seed", "int", TYPES),
    ({"stop": [""]}, "stop", "empty", LEAVE),
    ({"stop": 5}, "stop", "str", TYPES),
    ({"stop": ["a", 5]}, "stop", "str", TYPES),
    ({"stop": ["x"] * 1000}, "stop", "1000", "at most 128"),
    ({"stop": ["x" * 10_000]}, "stop", "stop[0] has 10000 characters", "at most 4096"),
    ({"stop_token_ids": [-1]}, "stop_token_ids", "stop_token_ids[0] is -1", NATURAL),
    ({"stop_token_ids": [10_000]}, "stop_token_ids", "10000", KNOWN),
    ({"stop_token_ids": [HUGE]}, "stop_token_ids", "stop_token_ids[0] is a huge number", NATURAL),
    ({"stop_token_ids": "a"}, "stop_token_ids", "array", TYPES),
    ({"stop_token_ids": [1] * 5000}, "stop_token_ids", "stop_token_ids has 5000 entries", "at most 1024"),
    ({"allowed_token_ids": []}, "allowed_token_ids", "empty", "leave it out or name at least one id"),
    ({"allowed_token_ids": [-5]}, "allowed_token_ids", "-5", NATURAL),
    ({"allowed_token_ids": [264]}, "allowed_token_ids", "allowed_token_ids[0] is 264", KNOWN),
    ({"logit_bias": {"-1": 1}}, "logit_bias", "integer", NATURAL),
    ({"logit_bias": {"9999": 1}}, "logit_bias", "logit_bias[0] is 9999", KNOWN),
    ({"logit_bias": {"x": 1}}, "logit_bias", ("text", "integer"), NATURAL),
    ({"logit_bias": {"1": "x"}}, "logit_bias", "float", TYPES),
    ({"logit_bias": {str(i): 1 for i in range(5000)}}, "logit_bias", "5000", "at most 4096"),
    ({"logit_bias": [1]}, "logit_bias", "object", TYPES),
    ({"bad_words": [" "]}, "bad_words", "empty", LEAVE),
    ({"bad_words": ["z" * 200]}, "bad_words", "64", "shorten it"),
    ({"min_tokens": -1}, "min_tokens", "min_tokens is -1", NATURAL),
    ({"min_tokens": 9, "max_tokens": 3}, "min_tokens", "max_tokens", "raise max_tokens"),
    ({"max_tokens": -1}, "max_tokens", "-1", COUNT),
    ({"max_tokens": HUGE}, "max_tokens", "max_tokens", COUNT),
    ({"max_tokens": CONTEXT}, "max_tokens", str(CONTEXT), "or shorten the prompt"),
    ({"max_tokens": "5"}, "max_tokens", "int", TYPES),
    ({"prompt_logprobs": -2}, "prompt_logprobs", "prompt_logprobs is -2", OR_ALL),
    ({"prompt_logprobs": 21}, "prompt_logprobs", "20", FEWER),
    ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs", "stream", "set stream to false"),
    ({"stream": "yes"}, "stream", "bool", TYPES),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream", "set stream to true"),
    ({"stream_options": 5, "stream": True}, "stream_options", "object", TYPES),
    (
        {"priority": HUGE},
        "priority",
        "priority is a huge number",
        "an integer from -2147483648 to 2147483647",
    ),
    ({"priority": "high"}, "priority", "int", TYPES),
    ({"cache_salt": ""}, "cache_salt", "cache_salt", SALT),
    ({"cache_salt": "x" * 5000}, "cache_salt", "cache_salt", SALT),
    ({"request_id": "a b"}, "request_id", "request_id is not usable", ID),
    ({"request_id": "x" * 500}, "request_id", "request_id is not usable", ID),
    ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens", "truncate_prompt_tokens is -2", OR_ALL),
    ({"truncate_prompt_tokens": 0}, "prompt", "empty", SOMETHING),
    ({"truncation_side": "middle"}, "truncation_side", "middle", TYPES),
    ({"use_beam_search": True, "stop": "x"}, "stop", (ABSENT, "beam search"), DRAWN),
    ({"use_beam_search": True, "guided_regex": "x"}, "guided_regex", (ABSENT, "beam search"), DRAWN),
    ({"use_beam_search": True, "n": 11}, "n", ("n is 11", "10"), "--max-logprobs to 22"),
    ({"use_beam_search": True, "temperature": 3}, "temperature", "temperature is 3", WARMTH),
    ({"use_beam_search": True, "length_penalty": 11}, "length_penalty", "length_penalty is 11", "at most 10"),
    ({"use_beam_search": "yes"}, "use_beam_search", "bool", TYPES),
    ({"best_of": 3}, "best_of", (ABSENT, "n"), "use n"),
    ({"length_penalty": 2.0}, "length_penalty", "needs use_beam_search", "set use_beam_search to true"),
    ({"response_format": {"type": "xml"}}, "response_format", "xml", TYPES),
    (
        {"response_format": {"type": "json_schema"}},
        "response_format",
        "json_schema.schema",
        '{"type": "json_schema", "json_schema"',
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}},
        "response_format",
        "uses not,",
        "leave it out and check the answer yourself",
    ),
    (
        {"response_format": {"type": "structural_tag", "format": {"type": "x"}}},
        "response_format",
        "unknown type 'x'",
        CHANGE,
    ),
    ({"structured_outputs": {}}, "structured_outputs", "nothing", ONE_OF),
    ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs", "json and regex", ONE_OF),
    ({"structured_outputs": {"xml": "a"}}, "structured_outputs", "xml", TYPES),
    ({"structured_outputs": {"regex": "(a"}}, "structured_outputs", "unclosed group", CHANGE),
    ({"structured_outputs": {"grammar": "start: x"}}, "structured_outputs", "unknown name", CHANGE),
    ({"guided_json": "{"}, "guided_json", "not valid JSON", "send an object or its JSON text"),
    ({"guided_choice": []}, "guided_choice", "list of texts", 'such as ["yes", "no"]'),
    ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "both", "send one of them"),
    ({"logits_processors": ["x"]}, "logits_processors", ABSENT, LEAVE),
    ({"thinking_token_budget": 5}, "thinking_token_budget", "not known", LEAVE),
    ({"thinking_token_budget": -2}, "thinking_token_budget", "thinking_token_budget is -2", OR_ALL),
    ({"kv_transfer_params": {"a": 1}}, "kv_transfer_params", ABSENT, LEAVE),
    ({"repetition_detection": 5}, "repetition_detection", "object", TYPES),
    ({"repetition_detection": {"size": 5}}, "repetition_detection", "size", TYPES),
    (
        {"repetition_detection": {"max_pattern_size": 257, "min_count": 2}},
        "repetition_detection.max_pattern_size",
        "max_pattern_size is 257",
        "an integer from 0 to 256",
    ),
    (
        {"repetition_detection": {"max_pattern_size": 2, "min_pattern_size": 3, "min_count": 2}},
        "repetition_detection.min_pattern_size",
        "min_pattern_size is 3",
        "an integer from 0 to 2",
    ),
    (
        {"repetition_detection": {"max_pattern_size": 2, "min_count": 1}},
        "repetition_detection.min_count",
        "min_count is 1",
        "an integer from 2 to",
    ),
    (
        {"repetition_detection": {"max_pattern_size": 2, "min_count": 2}, "use_beam_search": True},
        "repetition_detection",
        (ABSENT, "beam search"),
        DRAWN,
    ),
    ({"vllm_xargs": [1]}, "vllm_xargs", "object", TYPES),
    ({"vllm_xargs": {"a": list(range(2000))}}, "vllm_xargs", "too many values", "at most 1024"),
    ({"vllm_xargs": {"a": "x" * 70_000}}, "vllm_xargs", "too much text", "at most 65536 characters"),
    ({"vllm_xargs": {"a": [[[[[[[[1]]]]]]]]}}, "vllm_xargs", "nested too deeply", "at most 8 levels"),
    ({"vllm_xargs": {"a": HUGE}}, "vllm_xargs", "huge number", "integers of 64 bits"),
    (
        {"vllm_xargs": {"kv_transfer_params": {"a": 1}}},
        "vllm_xargs",
        "kv_transfer_params",
        "no KV connectors",
    ),
    ({"vllm_xargs": {"a": 1}, "use_beam_search": True}, "vllm_xargs", (ABSENT, "beam search"), DRAWN),
]
ONLY_TEXT = [
    ({"prompt": ""}, "prompt", "empty", SOMETHING),
    ({"prompt": []}, "prompt", "empty", "send text or token ids"),
    ({"prompt": [""]}, "prompt", "empty", SOMETHING),
    ({"prompt": [[]]}, "prompt", "empty", SOMETHING),
    ({"prompt": None}, "prompt", "null", TYPES),
    ({"prompt": {"a": 1}}, "prompt", "object", TYPES),
    ({"prompt": ["a", 1]}, "prompt", "mixes", FORMS),
    ({"prompt": [[1], "a"]}, "prompt", "mixes", FORMS),
    ({"prompt": [[1, "a"]]}, "prompt", "int", TYPES),
    ({"prompt": [-1]}, "prompt", "-1", KNOWN),
    ({"prompt": [264]}, "prompt", "264", KNOWN),
    ({"prompt": [[1], [2, 99999]]}, "prompt", "99999", KNOWN),
    ({"prompt": [HUGE]}, "prompt", "huge", KNOWN),
    ({"prompt": [1.5]}, "prompt", "float", TYPES),
    ({"prompt": [True]}, "prompt", "bool", TYPES),
    ({"prompt": ["a"] * 3000}, "prompt", ("3000", "2048"), "send fewer, or start the server with a"),
    ({"prompt": "x" * 100_000}, "prompt", ("100000", str(CONTEXT)), SHORTEN),
    ({"prompt": [7] * (CONTEXT + 1)}, "prompt", (str(CONTEXT + 1), str(CONTEXT)), SHORTEN),
    ({"prompt": [7] * CONTEXT}, "prompt", "no room", SHORTEN),
    ({"logprobs": -2}, "logprobs", "logprobs is -2", OR_ALL),
    ({"logprobs": 21}, "logprobs", "20", FEWER),
    ({"logprobs": True}, "logprobs", "bool", TYPES),
    ({"suffix": "end"}, "suffix", (ABSENT, "filling in"), "Qwen2.5-Coder"),
    ({"suffix": "end", "echo": True}, "echo", "suffix", "leave echo out"),
    ({"suffix": 5}, "suffix", "int", TYPES),
    ({"use_beam_search": True, "max_tokens": 0}, "max_tokens", "needs tokens", "set max_tokens above 0"),
    ({"use_beam_search": True, "echo": True, "logprobs": 1}, "use_beam_search", "echo", DRAWN),
    ({"prompt_embeds": "abc"}, "prompt_embeds", ABSENT, "send prompt as text or token ids"),
    ({"echo": "yes"}, "echo", "bool", TYPES),
]
ONLY_CHAT = [
    ({"messages": []}, "messages", "empty", "send at least one message"),
    ({"messages": None}, "messages", "null", TYPES),
    ({"messages": "hello"}, "messages", "str", TYPES),
    ({"messages": ["hello"]}, "messages", "str", TYPES),
    ({"messages": [{}]}, "messages", "role", ROLES),
    ({"messages": [{"role": 5, "content": "x"}]}, "messages", "role", ROLES),
    ({"messages": [{"role": "<|im_end|>", "content": "x"}]}, "messages", "role", ROLES),
    (
        {"messages": [{"role": "user", "content": 5}]},
        "messages",
        "content",
        'text, or a list of {"type": "text", "text"',
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages",
        ("image_url", "text"),
        'send parts of type "text"',
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages",
        "text",
        'text, or a list of {"type": "text", "text"',
    ),
    ({"messages": [{"role": "user", "content": "x" * 100_000}]}, "prompt", str(CONTEXT), SHORTEN),
    ({"messages": HI * 5000}, "messages", ("5000", "4096"), "shorten the chat"),
    (
        {"messages": [{"role": "tool", "content": "x", "tool_calls": 5}]},
        "messages",
        "tool_calls",
        'a list of {"type": "function", "function"',
    ),
    ({"logprobs": 5}, "logprobs", "bool", TYPES),
    ({"top_logprobs": 3}, "top_logprobs", "logprobs", "set logprobs to true"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20", FEWER),
    ({"logprobs": True, "top_logprobs": -2}, "top_logprobs", "top_logprobs is -2", OR_ALL),
    ({"logprob_token_ids": [1]}, "logprob_token_ids", "needs logprobs", "set logprobs to true"),
    (
        {"logprob_token_ids": [-1], "logprobs": True},
        "logprob_token_ids",
        "logprob_token_ids[0] is -1",
        NATURAL,
    ),
    ({"logprob_token_ids": [264], "logprobs": True}, "logprob_token_ids", "264", KNOWN),
    ({"logprob_token_ids": [1] * 129, "logprobs": True}, "logprob_token_ids", "129", "at most 128"),
    ({"logprob_token_ids": "1", "logprobs": True}, "logprob_token_ids", "array", TYPES),
    (
        {"logprob_token_ids": [1], "logprobs": True, "use_beam_search": True},
        "logprob_token_ids",
        (ABSENT, "beam search"),
        DRAWN,
    ),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "0", COUNT),
    (
        {"max_completion_tokens": CONTEXT},
        "max_completion_tokens",
        str(CONTEXT),
        "lower max_completion_tokens to 236 or",
    ),
    (
        {"add_generation_prompt": True, "continue_final_message": True},
        "continue_final_message",
        "exclude",
        "set add_generation_prompt to false",
    ),
    (
        {"messages": [{"role": "user", "content": ""}], "continue_final_message": True},
        "continue_final_message",
        "text",
        "add text to it, or set",
    ),
    ({"tools": [{"type": "function"}]}, "tools", "function", "add it"),
    ({"tool_choice": "required"}, "tool_choice", "needs tools", "describe the tools in tools"),
    ({"functions": [{}]}, "functions", ABSENT, "use tools"),
    ({"modalities": ["audio"]}, "modalities", "modalities", 'only ["text"] is available'),
    ({"chat_template": "{{ x }}"}, "chat_template", "chat_template", "start the server with --chat-template"),
    ({"chat_template_kwargs": {"nothing": 1}}, "chat_template_kwargs", "nothing", "it takes no arguments"),
    ({"reasoning_effort": "high"}, "reasoning_effort", ABSENT, LEAVE),
    ({"documents": [{"a": 1}]}, "documents", ABSENT, "put them into a message"),
]
TOKENS = [
    (TOKENIZE, {}, "prompt", "either", EITHER),
    (TOKENIZE, {"prompt": "a", "messages": HI}, "prompt", "either", EITHER),
    (TOKENIZE, {"prompt": 5}, "prompt", "str", TYPES),
    (TOKENIZE, {"prompt": "x" * 100_000}, "prompt", str(CONTEXT), SHORTEN),
    (TOKENIZE, {"messages": []}, "messages", "empty", "send at least one message"),
    (TOKENIZE, {"messages": HI, "tools": [{}]}, "tools", "function", "add it"),
    (DETOKENIZE, {}, "tokens", "missing", "add it"),
    (DETOKENIZE, {"tokens": "a"}, "tokens", "array", TYPES),
    (DETOKENIZE, {"tokens": [-1]}, "tokens", "tokens[0] is -1", KNOWN),
    (DETOKENIZE, {"tokens": [264]}, "tokens", "tokens[0] is 264", KNOWN),
    (DETOKENIZE, {"tokens": [HUGE]}, "tokens", "huge", KNOWN),
]

NOBODY = [
    (CHAT, {"model": "nobody"}),
    (CHAT, {"model": "x" * 10_000}),
    (TEXT, {"model": "nobody"}),
    (TEXT, {"model": "x" * 10_000}),
    (TOKENIZE, {"model": "nobody", "prompt": "a"}),
    (DETOKENIZE, {"model": "nobody", "tokens": [1]}),
]
ONE_OBJECT, NO_NAN = "send one JSON object", "JSON knows no NaN or Infinity"

# (body, field, what is said, remedy), wherever it is sent
BODIES = [
    (b"", "body", "is not valid JSON", "the body is empty; send a JSON object"),
    (b"{", "body", "is not valid JSON", ONE_OBJECT),
    (b"[]", "body", "Expected object, got array", TYPES),
    (b"null", "body", "Expected object, got null", TYPES),
    (b'"text"', "body", "Expected object, got str", TYPES),
    (b'{"temperature": NaN}', "body", "is not valid JSON", NO_NAN),
    (b'{"temperature": -Infinity}', "body", "is not valid JSON", NO_NAN),
    (b'{"model": "\xff"}', "body", "is not valid UTF-8", "encode it as UTF-8"),
    (b'{"model": "\\ud800"}', "body", "is not valid JSON", ONE_OBJECT),
    (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "body", "is nested too deeply", "flatten it"),
    (b"\x00" * 100, "body", "is not valid JSON", ONE_OBJECT),
    (b"model=tiny&prompt=a", "body", "is not valid JSON", ONE_OBJECT),
]
TEXT_BODIES = [
    (b'{"model":"tiny","prompt":"a"} x', "body", "trailing characters", ONE_OBJECT),
    (b'{"temperature": 1e999}', "temperature", "Number out of range", TYPES),
    (b'{"seed": ' + b"9" * 5000 + b"}", "seed", "Integer value out of range", TYPES),
    (b'{"prompt": ' + b"[" * 100_000, "prompt", "Expected int, got array", TYPES),
]
GOOD: dict[str, dict[str, Any]] = {
    CHAT: {"model": MODEL, "messages": HI},
    TEXT: {"model": MODEL, "prompt": "hello"},
    TOKENIZE: {"prompt": "hello"},
    DETOKENIZE: {"tokens": [1]},
}
KINDS: dict[str, type[msgspec.Struct]] = {
    CHAT: ChatRequest,
    TEXT: CompletionRequest,
    TOKENIZE: TokenizeRequest,
    DETOKENIZE: DetokenizeRequest,
}


def wrong_types() -> Iterator[Row]:
    """Every typed field of every route with a value of another type."""
    for path, kind in KINDS.items():
        for known in msgspec.structs.fields(kind):
            if known.type is not Any:
                name = known.encode_name
                body = {**GOOD[path], name: _other(kind, path, name)}
                yield field(path, body, name, (name, "Expected"), TYPES, shown=f"type of {name}")


def _other(kind: type[msgspec.Struct], path: str, name: str) -> Any:
    for value in (5, "text", [[[]]], {"a": []}):
        try:
            msgspec.convert({**GOOD[path], name: value}, kind)
        except msgspec.ValidationError:
            return value
    raise AssertionError(f"{name} of {path} takes everything")


def absent() -> Iterator[Row]:
    """Every field that is known from elsewhere and has no meaning here."""
    for path in (CHAT, TEXT):
        for known in msgspec.structs.fields(KINDS[path]):
            if known.type is Any:
                name = known.encode_name
                yield laid_over(path, {name: ["something"]}, name, (name, ABSENT), "")


def laid_over(path: str, more: dict[str, Any], *rest: Any, status: int = 400) -> Row:
    return field(path, {**GOOD[path], **more}, *rest, status=status, shown=more)


FIELDS = [
    *(laid_over(path, *row) for row in SHARED for path in (CHAT, TEXT)),
    *(laid_over(TEXT, *row) for row in ONLY_TEXT),
    *(laid_over(CHAT, *row) for row in ONLY_CHAT),
    *(field(*row) for row in TOKENS),
    *(laid_over(*row, "model", "does not exist", NAMES, status=404) for row in NOBODY),
    *(field(path, *row) for row in BODIES for path in GOOD),
    *(field(TEXT, *row) for row in TEXT_BODIES),
    *wrong_types(),
    *absent(),
]
