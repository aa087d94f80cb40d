"""Chat templates: messages to the text a model was trained on. Knows nothing of HTTP or sampling.

The template comes with the model or from the operator, never from a client. What users wrote
cannot become a special token (guard.py); what the template builds is bounded (sandbox.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import jinja2.exceptions
import jinja2.meta

from octavo.core.errors import ArtefactError, EngineError, Unsupported, UserError
from octavo.text.guard import Guard, Span, SpecialStrings
from octavo.text.sandbox import Limits, Sandbox
from octavo.text.tokenizer import Tokenizer

MOST_MESSAGES = 4096
MOST_CALLS = 256  # in one message
_LONGEST = 512 << 10  # characters of a template
_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_. -]{0,63}")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_LONGEST_ID = 256
_THOUGHT = ("reasoning", "reasoning_content", "thinking")
_ANOTHER = "mend it or name another with --chat-template"
_MESSAGE = '{"role": ..., "content": ...}'
_PART = 'text, or a list of {"type": "text", "text": ...}'
_CALL = 'a list of {"type": "function", "function": {"name": ..., "arguments": "{...}"}}'
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
_RESERVED = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token", "unk_token"}
    | {"pad_token", "raise_exception", "strftime_now", "continue_final_message"}
)


class Rendered(NamedTuple):
    """A prompt made from messages: as people read it, and cut for encoding."""

    text: str
    spans: tuple[Span, ...]


class ChatTemplate:
    """One template, or several by name of which "tool_use" is taken when there are tools.

    ArtefactError when a template is not valid Jinja.
    """

    def __init__(
        self,
        sources: str | Mapping[str, str],
        tokenizer: Tokenizer | None = None,
        *,
        origin: str = "the chat template",
        limits: Callable[[], Limits] = Limits,
    ) -> None:
        self.sources = {"default": sources} if isinstance(sources, str) else dict(sources)
        if not self.sources:
            raise ArtefactError(f"{origin} is empty", hint=_ANOTHER, field="chat_template")
        self._origin = origin
        self._limits = limits
        self._sandbox = Sandbox()
        self._compiled = {name: self._compile(source) for name, source in self.sources.items()}
        self._variables = frozenset().union(*(self._undeclared(source) for source in self.sources.values()))
        self._specials = SpecialStrings()
        self._names: dict[str, str] = {}
        if tokenizer is not None:
            self._specials = SpecialStrings(tokenizer.added[id] for id in sorted(tokenizer.special_ids))
            self._names = _special_names(tokenizer)

    @property
    def source(self) -> str:
        return self.sources.get("default") or next(iter(self.sources.values()))

    def knows(self, variable: str) -> bool:
        """Whether the template looks at a variable of this name."""
        return variable in self._variables

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> Rendered:
        """The prompt for `messages`. `variables` are further names the template knows
        (chat_template_kwargs). UserError names the message or field that cannot be."""
        if continue_final_message and add_generation_prompt:
            raise UserError(
                "add_generation_prompt and continue_final_message exclude each other",
                hint="set add_generation_prompt to false",
                field="continue_final_message",
            )
        guard = Guard(self._specials)
        rows = [guard.protect(row) for row in clean_messages(messages)]
        end = Guard(self._specials).key
        if continue_final_message:
            _mark_end(rows, end)
        values = {
            **self._names,
            **guard.protect(self._checked(variables or {})),
            "messages": rows,
            "tools": guard.protect(list(tools)) if tools else None,
            "documents": guard.protect(list(documents)) if documents else None,
            "add_generation_prompt": add_generation_prompt,
        }
        text = self._run(self._choose(bool(tools)), values)
        if continue_final_message:
            text = _cut_at(text, end)
        spans = tuple(guard.spans(text))
        return Rendered("".join(span.text for span in spans), spans)

    def _choose(self, tools: bool) -> jinja2.Template:
        if tools and "tool_use" in self._compiled:
            return self._compiled["tool_use"]
        return self._compiled.get("default") or next(iter(self._compiled.values()))

    def _compile(self, source: str) -> jinja2.Template:
        if len(source) > _LONGEST:
            raise ArtefactError(
                f"{self._origin} has more than {_LONGEST} characters", hint=_ANOTHER, field="chat_template"
            )
        try:
            return self._sandbox.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            line = f" (line {error.lineno})" if isinstance(error, jinja2.TemplateSyntaxError) else ""
            raise ArtefactError(
                f"{self._origin} is not valid Jinja{line}: {_words(error)}",
                hint=_ANOTHER,
                field="chat_template",
            ) from error

    def _undeclared(self, source: str) -> set[str]:
        return jinja2.meta.find_undeclared_variables(self._sandbox.parse(source))

    def _checked(self, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        """Only names this template asks for, so that a typing error is not silently lost."""
        allowed = {name for name in self._variables - _RESERVED if not name.startswith("_")}
        for name in variables:
            if name not in allowed:
                raise UserError(
                    f"the chat template does not know {name[:64]!r}",
                    hint=f"it knows: {', '.join(sorted(allowed))}" if allowed else "it takes no arguments",
                    field="chat_template_kwargs",
                )
        return variables

    def _run(self, template: jinja2.Template, values: dict[str, Any]) -> str:
        try:
            return self._sandbox.run(template, values, self._limits())
        except EngineError:
            raise
        except jinja2.exceptions.SecurityError as error:
            raise UserError(
                f"the chat template does what none may: {_words(error)}", hint=_ANOTHER, field="chat_template"
            ) from error
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise UserError(
                f"the chat template failed on these messages: {_words(error)}",
                hint="it may not know this role or kind of content; --chat-template names another",
                field="messages",
            ) from error
        except (RecursionError, MemoryError) as error:
            raise UserError(
                f"the chat template failed: {type(error).__name__}", hint=_ANOTHER, field="chat_template"
            ) from error


def find_template(given: str | None, tokenizer: Tokenizer | None) -> ChatTemplate | None:
    """The operator's template (a file's path or Jinja text), else the model's own, else None."""
    if given is None:
        if tokenizer is None or not tokenizer.templates:
            return None
        return ChatTemplate(tokenizer.templates, tokenizer, origin=f"the chat template of {tokenizer.source}")
    if any(mark in given for mark in ("{{", "{%", "\n")):
        return ChatTemplate(given, tokenizer, origin="--chat-template")
    path = Path(given).expanduser()
    try:
        if path.stat().st_size > 4 * _LONGEST:
            raise ArtefactError(
                f"{given} has more than {_LONGEST} characters", hint=_ANOTHER, field="chat_template"
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"--chat-template {given} cannot be read: {error.__class__.__name__}",
            hint="give a file, or Jinja text with {{ }} in it",
            field="chat_template",
        ) from error
    return ChatTemplate(text, tokenizer, origin=given)


def encode(rendered: Rendered, tokenizer: Tokenizer) -> list[int]:
    """Ids of a rendered prompt. Only the template's own special strings become special tokens."""
    ids: list[int] = []
    for span in rendered.spans:
        if span.special:
            ids.append(tokenizer.specials[span.text])
        else:
            ids += tokenizer.encode(span.text, add_special=False, parse_special=False)
    return ids


def clean_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Checked copies in the shape templates expect: content is text."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise UserError("messages must be a list of objects", hint=_MESSAGE, field="messages")
    if not messages:
        raise UserError("messages is empty", hint="send at least one message", field="messages")
    if len(messages) > MOST_MESSAGES:
        raise UserError(
            f"{len(messages)} messages, the limit is {MOST_MESSAGES}",
            hint="shorten the chat",
            field="messages",
        )
    return [_clean(message, f"messages[{at}]") for at, message in enumerate(messages)]


def _clean(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise UserError(f"{where} is not an object", hint=_MESSAGE, field=where)
    role = message.get("role")
    if not isinstance(role, str) or not _ROLE.fullmatch(role):
        raise UserError(
            f"{where}.role is missing or odd", hint="system, user, assistant or tool", field=f"{where}.role"
        )
    name = message.get("name")
    if name is not None and (not isinstance(name, str) or len(name) > 256):
        hint = "shorten it or leave it out"
        raise UserError(
            f"{where}.name is not text of at most 256 characters", hint=hint, field=f"{where}.name"
        )
    row = {key: value for key, value in message.items() if value is not None}
    row["content"] = _content(message.get("content"), f"{where}.content")
    if "tool_calls" in row:
        row["tool_calls"] = _tool_calls(row["tool_calls"], f"{where}.tool_calls")
    if not row.get("tool_calls", True):
        del row["tool_calls"]  # some templates ask only whether there is such a list
    if not isinstance(row.get("tool_call_id", ""), str) or len(row.get("tool_call_id", "")) > _LONGEST_ID:
        field = f"{where}.tool_call_id"
        hint = "send the id of the call it answers"
        raise UserError(f"{field} is not text of at most {_LONGEST_ID} characters", hint=hint, field=field)
    return _with_thought(row, where)


def _with_thought(row: dict[str, Any], where: str) -> dict[str, Any]:
    """Earlier reasoning under each of the names that templates look for."""
    thought = row.get("reasoning", row.get("reasoning_content"))
    if thought is None:
        return row
    if not isinstance(thought, str):
        hint = "send text or leave it out"
        raise UserError(f"{where}.reasoning is not text", hint=hint, field=f"{where}.reasoning")
    return {**row, **dict.fromkeys(_THOUGHT, thought)}


def _content(content: Any, where: str) -> str:
    """Text, or parts whose texts are joined by line breaks."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise UserError(f"{where} is neither text nor a list of parts", hint=_PART, field=where)
    return "\n".join(_part(part, f"{where}[{at}]") for at, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise UserError(f"{where} is not an object", hint=_PART, field=where)
    kind = part.get("type", "text" if "text" in part else None)
    if kind not in _TEXT_PARTS:
        raise Unsupported(
            f"{where} is of type {str(kind)[:40]!r}; this model reads text only",
            hint='send parts of type "text"',
            field=where,
        )
    text = part.get("refusal" if kind == "refusal" else "text")
    if not isinstance(text, str):
        raise UserError(f"{where}.text is not text", hint=_PART, field=where)
    return text


def _tool_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    """Arguments as objects: templates print them with tojson."""
    if not isinstance(calls, Sequence) or isinstance(calls, str | bytes):
        raise UserError(f"{where} is not a list", hint=_CALL, field=where)
    if len(calls) > MOST_CALLS:
        hint = "leave the oldest out"
        raise UserError(f"{where} has {len(calls)} calls, the limit is {MOST_CALLS}", hint=hint, field=where)
    return [_tool_call(call, f"{where}[{at}]") for at, call in enumerate(calls)]


def _tool_call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UserError(f"{where} has no function with a name", hint=_CALL, field=where)
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{where}.function.arguments is not JSON", hint=_CALL, field=f"{where}.function.arguments"
            ) from error
    if not isinstance(arguments, Mapping):
        raise UserError(
            f"{where}.function.arguments is not an object", hint=_CALL, field=f"{where}.function.arguments"
        )
    return {**call, "function": {**function, "arguments": arguments}}


def _special_names(tokenizer: Tokenizer) -> dict[str, str]:
    return {
        "bos_token": tokenizer.text_of(tokenizer.bos_token_id),
        "eos_token": tokenizer.text_of(next(iter(tokenizer.eos_token_ids), None)),
        "unk_token": tokenizer.text_of(tokenizer.unk_token_id),
        "pad_token": tokenizer.text_of(tokenizer.pad_token_id),
    }


def _mark_end(rows: list[dict[str, Any]], end: str) -> None:
    if not rows[-1]["content"]:
        raise UserError(
            "continue_final_message needs a last message with text",
            hint="add text to it, or set continue_final_message to false",
            field="continue_final_message",
        )
    rows[-1]["content"] += end


def _cut_at(text: str, end: str) -> str:
    at = text.rfind(end)
    if at < 0:
        raise UserError(
            "the chat template leaves the last message out, so it cannot be continued",
            hint="set continue_final_message to false",
            field="continue_final_message",
        )
    return text[:at].replace(end, "")


def _words(error: BaseException) -> str:
    """A library's words without addresses of objects, and not too many."""
    return f"{type(error).__name__}: {_ADDRESS.sub('', str(error))[:200]}"
