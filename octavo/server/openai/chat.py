"""POST /v1/chat/completions: a conversation, answered."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from octavo.core.errors import Unsupported, UserError
from octavo.front import speech
from octavo.front.answer import Chunk
from octavo.front.prompt import ChatOptions
from octavo.front.speech import Plan, Said, Voice
from octavo.front.tools import ToolUse
from octavo.server.body import Body
from octavo.server.openai import beams, build, constraint, tools
from octavo.server.openai.answer import Head, MaybeUsage, UsageRule, respond
from octavo.server.openai.fold import fold_chat
from octavo.server.openai.job import Job, Piece
from octavo.server.openai.logprobs import Names, chat_logprobs, prompt_logprobs
from octavo.server.openai.types import (
    ChatChunk,
    ChatChunkChoice,
    ChatDelta,
    ChatReply,
    ChatRequest,
    TokenizeRequest,
    Usage,
)
from octavo.server.service import Service

_BODY = Body(ChatRequest)
_HEAVY = 1 << 16  # about as much work as so many characters


class Talk(NamedTuple):
    """A conversation about to be answered: what every dialect of it goes on with."""

    body: ChatRequest
    head: Head
    job: Job
    plan: Plan
    use: ToolUse

    def voice(self) -> Voice:
        """The reader of one answer."""
        return speech.voice(self.plan, self.use, self.job.prepared[0].prompt)


async def create(service: Service, request: Request) -> Response:
    started = service.meter.clock()
    body = await _BODY.read(request)
    rule = UsageRule.of(body, service.config.serve.enable_force_include_usage)
    talk = await begin(service, request, body, started=started)
    try:
        writer = ChatWriter(service, body, talk.head, talk.job, talk.plan, talk.use)
        return await respond(service, request, body, talk.job, writer, rule)
    except BaseException:
        talk.job.close()
        raise


async def begin(
    service: Service,
    request: Request,
    body: ChatRequest,
    *,
    started: float,
    kind: str = "chatcmpl",
    strict: bool = True,
    shorten: bool = False,
) -> Talk:
    """Checks and prepares; other dialects translate their bodies into this one. The job has taken its
    places in the queue: whoever gets it closes it. `strict`: a max_tokens that does not fit is refused;
    `shorten`: the oldest turns of a conversation that does not fit are left out."""
    model = build.admit(service, body)
    most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    use = tools.use_of(body)
    plan = speech.plan(service.formats, use)
    with build.renaming(_names(body)):
        named = _named(body)
        params = build.sampling(service, body, _alternatives(body), most, logprob_token_ids=named)
    constrained = tools.constrain(params, plan, use)
    if body.skip_special_tokens is None and service.formats.special and not plan.plain:
        params.skip_special_tokens = False
    how = msgspec.structs.replace(
        layout(body),
        tools=_shown(service, use),
        variables=tools.variables(body, service.builder.template),
        reasoning=plan.reasoning,
        shorten=shorten,
    )
    head = build.head(service, request, body, kind, model)
    ticket = service.gate.take(build.check_rows(service, 1, params.n))
    try:
        options = build.options(request, body, head.id, strict=strict and most is not None)
        work = functools.partial(service.builder.build_chat, body.messages, params, how, options)
        size = size_of(body.messages) + tools.size_of(body.tools) + constraint.weight(params)
        with build.renaming(_names(body, constrained)):
            prepared = await service.off_loop(size, work)
        job = beams.job(service, body, [prepared], options, ticket, started)
        return Talk(body, head, job, plan, use)
    except BaseException:
        ticket.release()
        raise


async def tokenised(service: Service, body: ChatRequest) -> tuple[int, ...]:
    """The prompt of a conversation that is not answered."""
    service.resolve(body.model)
    use = tools.use_of(body)
    how = msgspec.structs.replace(
        layout(body),
        tools=_shown(service, use),
        variables=tools.variables(body, service.builder.template),
    )
    size = size_of(body.messages) + tools.size_of(body.tools)
    _, ids = await service.off_loop(size, lambda: service.builder.render(body.messages, how))
    return ids


def _names(body: ChatRequest, constrained: bool = False) -> dict[str, str]:
    """What parameters are called on this route."""
    names = {"logprobs": "top_logprobs", "extra_args": "vllm_xargs", **tools.names(body, constrained)}
    return names if body.max_completion_tokens is None else {**names, "max_tokens": "max_completion_tokens"}


def _shown(service: Service, use: ToolUse) -> Sequence[Mapping[str, Any]] | None:
    """The tools the model is told of."""
    hidden = use.choice.mode == "none" and service.config.serve.exclude_tools_when_tool_choice_none
    return None if hidden else use.shown or None


def layout(body: ChatRequest | TokenizeRequest) -> ChatOptions:
    """How messages become a prompt."""
    proceed = bool(body.continue_final_message)
    generate = not proceed if body.add_generation_prompt is None else body.add_generation_prompt
    return ChatOptions(
        add_generation_prompt=generate,
        continue_final_message=proceed,
        variables=body.chat_template_kwargs,
        add_special=bool(body.add_special_tokens),
    )


def size_of(messages: Sequence[Mapping[str, Any]]) -> int:
    """About as many characters as have to be rendered; content may be text, parts or nothing."""
    contents = [message.get("content") for message in messages]
    texts = [one if isinstance(one, list) else [one] for one in contents]
    called = sum(_HEAVY for message in messages if message.get("tool_calls"))
    return called + sum(_length(part) + 16 for parts in texts for part in parts)


def _length(part: Any) -> int:
    text = part.get("text") if isinstance(part, dict) else part
    return len(text) if isinstance(text, str) else 0


def _alternatives(body: ChatRequest) -> int | None:
    """logprobs says whether, top_logprobs how many besides the sampled token, unless some are named."""
    if body.logprobs:
        return None if body.logprob_token_ids else body.top_logprobs or 0
    if body.top_logprobs:
        raise UserError("top_logprobs needs logprobs", hint="set logprobs to true", field="top_logprobs")
    return None


def _named(body: ChatRequest) -> list[int] | None:
    """Tokens whose log-probabilities are told in place of the likeliest."""
    if not body.logprob_token_ids:
        return None
    if not body.logprobs:
        hint = "set logprobs to true"
        raise UserError("logprob_token_ids needs logprobs", hint=hint, field="logprob_token_ids")
    if body.use_beam_search:
        hint = "leave it out, or set use_beam_search to false"
        what = "logprob_token_ids is not available in a beam search"
        raise Unsupported(what, hint=hint, field="logprob_token_ids")
    return body.logprob_token_ids


class ChatWriter:
    def __init__(
        self, service: Service, body: ChatRequest, head: Head, job: Job, plan: Plan, use: ToolUse
    ) -> None:
        self._body = body
        self._head = head
        self._job = job
        as_ids = body.return_tokens_as_token_ids
        default = service.config.serve.return_tokens_as_token_ids
        self._names = Names(service.builder.tokenizer, default if as_ids is None else as_ids)
        last = str(body.messages[-1].get("role", ""))
        self._role = last if body.continue_final_message else service.config.serve.response_role
        self._echo = _text(body.messages[-1]) if body.echo and last == self._role else ""
        self._plan = plan
        self._voice = functools.partial(speech.voice, plan, use, job.prepared[0].prompt)
        self._voices: dict[int, Voice] = {}
        self._began: set[int] = set()

    def choices(self, piece: Piece) -> list[ChatChunkChoice]:
        """The first chunk of each choice carries only the role."""
        chunk, out = piece.chunk, []
        said = self._heard(piece)
        if not self._worth_telling(chunk, said):
            return []
        if chunk.index not in self._began:
            self._began.add(chunk.index)
            out.append(ChatChunkChoice(chunk.index, ChatDelta(role=self._role, content=""), None, None))
            if self._echo:
                out.append(ChatChunkChoice(chunk.index, ChatDelta(content=self._echo), None, None))
        out.append(self._content(chunk, said))
        return out

    def chunk(self, choices: list[ChatChunkChoice], usage: MaybeUsage) -> ChatChunk:
        head = self._head
        chunk = ChatChunk(
            head.id, "chat.completion.chunk", head.created, head.model, choices, head.fingerprint, usage
        )
        if choices and isinstance(choices[0].delta.role, str):
            if self._body.return_token_ids:
                chunk.prompt_token_ids = list(self._job.prepared[0].token_ids)
            if self._body.return_prompt_text:
                chunk.prompt_text = self._job.prepared[0].prompt or ""
        return chunk

    def whole(self, choices: list[ChatChunkChoice], usage: Usage) -> ChatReply:
        head, prepared = self._head, self._job.prepared[0]
        folded = fold_chat(choices)
        reply = ChatReply(
            head.id, "chat.completion", head.created, head.model, folded, None, head.fingerprint, usage
        )
        if build.scores_prompt(self._body):
            reply.prompt_logprobs = prompt_logprobs(self._job.prompt_logprobs[0], self._names)
        if self._body.return_token_ids:
            reply.prompt_token_ids = list(prepared.token_ids)
        if self._body.return_prompt_text:
            reply.prompt_text = prepared.prompt
        return reply

    def _heard(self, piece: Piece) -> Said:
        """Fed in order, each chunk once."""
        row = piece.chunk.index
        if row not in self._voices:
            self._voices[row] = self._voice()
        said = self._voices[row].feed(piece.chunk)
        if self._plan.reasoning is not None:
            thoughts = self._voices[row].thought_tokens(piece.chunk)
            self._job.count_thoughts(piece.prompt, row, thoughts)
        return said if self._body.include_reasoning is not False else said._replace(thought="")

    def _worth_telling(self, chunk: Chunk, said: Said) -> bool:
        wanted = bool(chunk.token_ids) and (self._body.return_token_ids or self._body.logprobs)
        return bool(not said.empty or wanted)

    def _content(self, chunk: Chunk, said: Said) -> ChatChunkChoice:
        blank = self._plan.plain and not chunk.finish_reason
        choice = ChatChunkChoice(chunk.index, tools.delta(said, blank), None, said.finish)
        if self._body.logprobs:
            most = -1 if self._body.logprob_token_ids else self._body.top_logprobs or 0
            choice.logprobs = chat_logprobs(chunk.logprobs or (), most, self._names)
        if chunk.finish_reason is not None:
            choice.stop_reason = chunk.stop_reason
        if self._body.return_token_ids:
            choice.token_ids = list(chunk.token_ids)
        return choice


def _text(message: Mapping[str, Any]) -> str:
    """The words of a message that is to be echoed."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return "\n".join(text for text in texts if isinstance(text, str))
