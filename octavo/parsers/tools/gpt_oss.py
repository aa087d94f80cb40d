"""Harmony, gpt-oss's messages: analysis is thought, commentary to a tool is a call, the rest is text.

`<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{...}<|call|>`;
the recipient may also stand before the channel. The prompt ends with `<|start|>assistant`, so
the first message begins in the middle of its header. Does the reasoning parser's work as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from octavo.core.request import GrammarSpec
from octavo.parsers.constraint import structural_tag
from octavo.parsers.events import CallArguments, Text, Thought
from octavo.parsers.json_scan import Balance, stream_value
from octavo.parsers.machine import REASONING, TOOLS, Machine, Tool, ToolChoice, is_name
from octavo.parsers.splitter import Parse

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>")
HEADER_LIMIT = 1024


class Harmony(Machine):
    """Text outside any message is Text. Tools of other namespaces than `functions` keep their full name.

    A broken header: Text, tags included. A call cut off: without end. Arguments that are no
    JSON object are passed on as they are, up to the message's end.
    """

    does_both = True

    def parse(self) -> Parse[None]:
        s = self.source
        tag = yield from self._opening()
        while True:
            tag = tag or (yield from s.stream(Text, START, CHANNEL, MESSAGE, *ENDS))
            if not tag:
                return
            if tag in ENDS:
                tag = ""
                continue
            s.mark()
            tag = yield from self._message(tag)

    def _opening(self) -> Parse[str]:
        """The rest of the header that the prompt began: a recipient may come before the channel."""
        s = self.source
        s.mark()
        yield from s.spaces()
        if (yield from s.literal("to=")):
            return (yield from self._message(""))
        rest = s.taken()
        if rest:
            yield Text(rest)
        return ""

    def _message(self, opening: str) -> Parse[str]:
        """One message from its header on. Returns the tag that opens the next, if it was consumed."""
        s = self.source
        stop = MESSAGE
        if opening != MESSAGE:
            _, stop = yield from s.until(MESSAGE, START, *ENDS, limit=HEADER_LIMIT)
        read = opening + s.taken()
        if stop != MESSAGE:  # it never began
            yield Text(read.removesuffix(START))
            return START if stop == START else ""
        channel, recipient = _read_header(read.removesuffix(MESSAGE))
        if recipient:
            return (yield from self._call(recipient))
        say = Thought if channel == "analysis" else Text
        yield from self.seam()
        yield say("\n")  # between messages of one kind; elsewhere the layout drops it
        end = yield from s.stream(say, *ENDS, START, CHANNEL)
        if end:
            yield from self.seam()
        return end if end in (START, CHANNEL) else ""

    def _call(self, recipient: str) -> Parse[str]:
        s = self.source
        yield self.start(recipient)
        yield from s.spaces()
        structured = (yield from s.peek()) == "{"
        if structured and (yield from stream_value(self, Balance())):
            yield self.end()
            yield from self.blank()
            yield from s.literal(*ENDS)
            return ""
        said = structured

        def piece(text: str) -> CallArguments:
            nonlocal said
            said = True
            return self.arguments(text)

        end = yield from s.stream(piece, *ENDS, START, CHANNEL)
        if end and not said:
            yield self.arguments("{}")
        if end and not structured:
            yield self.end()
        return end if end in (START, CHANNEL) else ""

    def constraint(self, tools: Sequence[Tool], choice: ToolChoice) -> GrammarSpec | None:
        def frame(name: str) -> tuple[str, str]:
            return f"{CHANNEL}commentary to=functions.{name} {CONSTRAIN}json{MESSAGE}", "<|call|>"

        return structural_tag(tools, choice, f"{CHANNEL}commentary to=", frame)


def _read_header(header: str) -> tuple[str, str]:
    """(channel, tool) of `role to=x<|channel|>channel to=x <|constrain|>json`; empty where missing."""
    spaced = header.replace(CONSTRAIN, " ").replace(START, " ").replace(CHANNEL, f" {CHANNEL} ")
    words = spaced.split()
    channel = recipient = ""
    for before, word in zip(["", *words], words, strict=False):
        if before == CHANNEL:
            channel = word
        if word.startswith("to=") and not recipient:
            recipient = word.removeprefix("to=").removeprefix("functions.")
    return channel, recipient if recipient not in ("assistant", "user") and is_name(recipient) else ""


@TOOLS.register("gpt_oss", "openai")
def tools(definitions: Sequence[Tool]) -> Machine:
    return Harmony(definitions)


@REASONING.register("gpt_oss", "openai_gptoss")
def reasoning(prompt: str | None) -> Machine:
    return Harmony()
