"""What the routes of this dialect have in common on the way in: ids, sampling fields, options."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from starlette.requests import Request

from octavo.core.errors import UserError
from octavo.front.params import SamplingParams
from octavo.front.prompt import Options
from octavo.server.openai import beams
from octavo.server.openai.answer import Head
from octavo.server.openai.constraint import constraint
from octavo.server.openai.refused import refuse_unavailable
from octavo.server.openai.types import ChatRequest, CompletionRequest
from octavo.server.service import Service

_SANE = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SAMPLING = (
    "n", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "seed", "stop", "stop_token_ids", "include_stop_str_in_output", "ignore_eos",
    "min_tokens", "prompt_logprobs", "logit_bias", "allowed_token_ids", "bad_words", "skip_special_tokens",
    "spaces_between_special_tokens", "thinking_token_budget",
)  # fmt: skip


def admit(service: Service, body: CompletionRequest | ChatRequest) -> str:
    """Checks what can be checked before any text is read. Returns the model's name for replies."""
    model = service.resolve(body.model)
    refuse_unavailable(body)
    beams.check(body)
    if body.stream and scores_prompt(body):
        raise UserError(
            "prompt_logprobs cannot be streamed", hint="set stream to false", field="prompt_logprobs"
        )
    return model


def scores_prompt(body: CompletionRequest | ChatRequest) -> bool:
    """Whether the reply carries prompt_logprobs; 0 is a wish, false is none."""
    return body.prompt_logprobs is not None and body.prompt_logprobs is not False


def sampling(
    service: Service,
    body: CompletionRequest | ChatRequest,
    logprobs: int | None,
    max_tokens: int | None,
    **more: Any,
) -> SamplingParams:
    """The body's sampling fields, and `more` of its route, over the model's defaults."""
    given: dict[str, Any] = {name: getattr(body, name) for name in _SAMPLING}
    if body.use_beam_search:
        given["temperature"] = 1.0  # n answers, which are scored and not drawn
    tokenised, circles = service.builder.tokenizer is not None, body.repetition_detection
    return service.builder.params(
        {
            **given,
            "logprobs": logprobs,
            "max_tokens": max_tokens,
            "detokenize": tokenised,
            "structured_outputs": constraint(body),
            "extra_args": body.vllm_xargs,
            "repetition_detection": msgspec.structs.asdict(circles) if circles else None,
            **more,
        }
    )


def options(request: Request, body: CompletionRequest | ChatRequest, id: str, **more: Any) -> Options:
    """What the request says besides prompt and sampling, and whose it is."""
    return Options(
        id=id,
        priority=body.priority or 0,
        patient=request.scope.get("patient", False),
        tenant=request.scope["tenant"],
        cache_salt=body.cache_salt,
        truncate=body.truncate_prompt_tokens,
        truncate_side=body.truncation_side or "left",
        **more,
    )


def head(
    service: Service, request: Request, body: CompletionRequest | ChatRequest, kind: str, model: str
) -> Head:
    """Id, time, names. The id ends with the client's own, where it gave a sane one."""
    name: str = body.request_id or request.scope["request_id"]
    if not _SANE.fullmatch(name):
        hint = "1 to 128 letters, digits, dots, colons, dashes and underscores"
        raise UserError("request_id is not usable", hint=hint, field="request_id")
    return Head(f"{kind}-{name}", service.now(), model, service.fingerprint)


@contextlib.contextmanager
def renaming(names: Mapping[str, str]) -> Iterator[None]:
    """Errors name fields as the route does, not as the parameters behind them."""
    try:
        yield
    except UserError as error:
        old = next((old for old in names if re.match(rf"{old}\b", error.field or "")), None)
        if old is None:
            raise
        message, hint, field = (
            re.sub(rf"(?<![-\w]){old}\b", names[old], text)  # --max-logprobs keeps its name
            for text in (error.message, error.hint, str(error.field))
        )
        raise type(error)(message, hint=hint, field=field) from None


def check_rows(service: Service, prompts: int, n: int) -> int:
    """Rows of the request. UserError when so many can never be open at once."""
    rows = prompts * n
    if rows > service.gate.most:
        field = "prompt" if prompts > n else "n"
        raise UserError(
            f"{prompts} prompts with n = {n} are {rows} answers, the limit is {service.gate.most}",
            hint="send fewer, or start the server with a larger --max-queue",
            field=field,
        )
    return rows
