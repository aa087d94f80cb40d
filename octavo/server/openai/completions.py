"""POST /v1/completions: texts or token ids, one or many, continued."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from octavo.core.errors import UserError
from octavo.front.answer import Chunk
from octavo.front.params import SamplingParams
from octavo.front.prepared import Prepared
from octavo.front.prompt import Options
from octavo.server.body import Body
from octavo.server.openai import beams, build, constraint
from octavo.server.openai.answer import Head, MaybeUsage, UsageRule, respond
from octavo.server.openai.fold import fold_completion
from octavo.server.openai.job import Job, Piece
from octavo.server.openai.logprobs import (
    Names,
    Row,
    completion_logprobs,
    first_prompt_token,
    joined,
    prompt_logprobs,
)
from octavo.server.openai.types import (
    CompletionChunk,
    CompletionChunkChoice,
    CompletionLogprobs,
    CompletionReply,
    CompletionRequest,
    Usage,
)
from octavo.server.service import Service

_BODY = Body(CompletionRequest)
_DEFAULT_MAX_TOKENS = 16
_OVERHEAD = 64  # a prompt costs as much work as so many characters, however short it is


async def create(service: Service, request: Request) -> Response:
    started = service.meter.clock()
    body = await _BODY.read(request)
    model = build.admit(service, body)
    rule = UsageRule.of(body, service.config.serve.enable_force_include_usage)
    if body.suffix and body.echo:
        raise UserError("echo and suffix exclude each other", hint="leave echo out", field="echo")
    prompts = split(body.prompt)
    prompt_only = body.max_tokens == 0
    most = None if prompt_only else _DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    names = {"prompt_token_ids": "prompt", "extra_args": "vllm_xargs", **constraint.names(body)}
    with build.renaming(names):
        params = build.sampling(service, body, body.logprobs, most)
    if body.echo and body.logprobs is not None:
        params.prompt_logprobs = _most(params.prompt_logprobs, body.logprobs)
        params.skip_reading_prefix_cache = True
    head = build.head(service, request, body, "cmpl", model)
    ticket = service.gate.take(build.check_rows(service, len(prompts), params.n))
    try:
        how = build.options(
            request,
            body,
            head.id,
            prompt_only=prompt_only,
            strict=body.max_tokens is not None,
            add_special=body.add_special_tokens is not False,
        )
        made = service.builder.build
        if body.suffix:
            made = functools.partial(_infilled, service, body.suffix)
        work = [functools.partial(made, prompt, params, how) for prompt in prompts]
        size = sum(len(prompt) + len(body.suffix or "") + _OVERHEAD for prompt in prompts)
        size += constraint.weight(params)
        with build.renaming(names):
            prepared = await service.off_loop(size, lambda: [one() for one in work])
        job = beams.job(service, body, prepared, how, ticket, started)
        return await respond(service, request, body, job, CompletionWriter(service, body, head, job), rule)
    except BaseException:
        ticket.release()
        raise


def split(prompt: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """The prompts of a body: one text, one list of ids, or a list of either."""
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise UserError("prompt is an empty list", hint="send text or token ids", field="prompt")
    kinds = {type(one) for one in prompt}
    if kinds == {int}:
        return [prompt]  # type: ignore[list-item]
    if len(kinds) > 1:
        hint = "send a text, a list of texts, a list of ids or a list of lists of ids"
        raise UserError("prompt mixes kinds of prompts", hint=hint, field="prompt")
    return list(prompt)  # type: ignore[arg-type]


def _infilled(
    service: Service, suffix: str, prompt: str | list[int], params: SamplingParams, how: Options
) -> Prepared:
    return service.builder.infill(prompt, suffix, params, how)


def _most(a: int | None, b: int) -> int:
    """The larger of two wishes for alternatives, where -1 is all."""
    return -1 if -1 in (a, b) else max(a or 0, b)


class CompletionWriter:
    """Choices are numbered prompt by prompt: the n answers of the first, then of the second."""

    def __init__(self, service: Service, body: CompletionRequest, head: Head, job: Job) -> None:
        self._body = body
        self._head = head
        self._job = job
        self._tokenizer = service.builder.tokenizer
        as_ids = body.return_tokens_as_token_ids
        default = service.config.serve.return_tokens_as_token_ids
        self._names = Names(self._tokenizer, default if as_ids is None else as_ids)
        self._began: set[int] = set()
        self._offsets: dict[int, int] = {}

    def choices(self, piece: Piece) -> list[CompletionChunkChoice]:
        chunk, prepared = piece.chunk, self._job.prepared[piece.prompt]
        if not self._worth_telling(chunk):
            return []
        index = piece.prompt * len(prepared.requests) + chunk.index
        first = index not in self._began
        self._began.add(index)
        choice = CompletionChunkChoice(index, chunk.text, None, chunk.finish_reason)
        parts = []
        if first:
            choice.text = self._begin(index, prepared, choice) + choice.text
            parts += self._echoed(index, piece.prompt, prepared)
        if self._body.logprobs is not None:
            parts.append(self._scored(index, chunk.logprobs or ()))
            choice.logprobs = joined(parts)
        if chunk.finish_reason is not None:
            choice.stop_reason = chunk.stop_reason
        if self._body.return_token_ids:
            choice.token_ids = list(chunk.token_ids)
        return [choice]

    def chunk(self, choices: list[CompletionChunkChoice], usage: MaybeUsage) -> CompletionChunk:
        head = self._head
        return CompletionChunk(
            head.id, "text_completion", head.created, head.model, choices, head.fingerprint, usage
        )

    def whole(self, choices: list[CompletionChunkChoice], usage: Usage) -> CompletionReply:
        head, folded = self._head, fold_completion(choices)
        for choice in folded:
            at = choice.index // len(self._job.prepared[0].requests)
            if build.scores_prompt(self._body):
                choice.prompt_logprobs = prompt_logprobs(self._job.prompt_logprobs[at], self._names)
            if self._body.return_token_ids:
                choice.prompt_token_ids = list(self._job.prepared[at].token_ids)
        return CompletionReply(
            head.id, "text_completion", head.created, head.model, folded, None, head.fingerprint, usage
        )

    def _worth_telling(self, chunk: Chunk) -> bool:
        wanted = bool(chunk.token_ids) and (self._body.return_token_ids or self._body.logprobs is not None)
        return bool(chunk.text or chunk.finish_reason or wanted)

    def _begin(self, index: int, prepared: Prepared, choice: CompletionChunkChoice) -> str:
        """What stands before the first token: the prompt, when it is to be echoed."""
        if self._body.return_token_ids:
            choice.prompt_token_ids = list(prepared.token_ids)
        if not self._body.echo:
            return ""
        if prepared.prompt is not None or self._tokenizer is None:
            return prepared.prompt or ""
        return self._tokenizer.decode(prepared.token_ids, skip_special=False)

    def _echoed(self, index: int, prompt: int, prepared: Prepared) -> list[CompletionLogprobs]:
        """Log-probabilities of the echoed prompt."""
        if not self._body.echo or self._body.logprobs is None:
            return []
        first, self._offsets[index] = first_prompt_token(prepared.token_ids[0], self._names)
        return [first, self._scored(index, self._job.prompt_logprobs[prompt])]

    def _scored(self, index: int, rows: Sequence[Row | None]) -> CompletionLogprobs:
        offset = self._offsets.get(index, 0)
        out, self._offsets[index] = completion_logprobs(rows, self._body.logprobs or 0, self._names, offset)
        return out
