"""POST /tokenize and /detokenize: the tokenizer as requests see it."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from octavo.core.errors import UserError
from octavo.front.forms import check_ids
from octavo.front.tools import read_tools
from octavo.parsers.machine import ToolChoice
from octavo.server.body import Body, reply
from octavo.server.openai import tools
from octavo.server.openai.chat import layout, size_of
from octavo.server.openai.refused import refuse_unavailable
from octavo.server.openai.types import DetokenizeReply, DetokenizeRequest, TokenizeReply, TokenizeRequest
from octavo.server.service import Service
from octavo.text.tokenizer import Tokenizer

_TOKENIZE = Body(TokenizeRequest)
_DETOKENIZE = Body(DetokenizeRequest)


async def tokenize(service: Service, request: Request) -> Response:
    """A prompt, or messages as a chat lays them out."""
    body = await _TOKENIZE.read(request)
    _check_model(service, body.model)
    refuse_unavailable(body)
    if (body.prompt is None) == (body.messages is None):
        raise UserError("send either prompt or messages", hint="one of them, not both", field="prompt")
    tokenizer = _tokenizer(service)
    ids = await _ids(service, body)
    strs = [tokenizer.token(id) or "" for id in ids] if body.return_token_strs else None
    return reply(TokenizeReply(len(ids), service.ready.max_model_len, list(ids), strs))


async def detokenize(service: Service, request: Request) -> Response:
    body = await _DETOKENIZE.read(request)
    _check_model(service, body.model)
    tokenizer = _tokenizer(service)
    ids = check_ids(body.tokens, service.builder.vocab_size, "tokens")
    text = await service.off_loop(len(ids), lambda: tokenizer.decode(ids, skip_special=False))
    return reply(DetokenizeReply(text))


async def _ids(service: Service, body: TokenizeRequest) -> tuple[int, ...]:
    builder = service.builder
    if body.prompt is not None:
        text, special = body.prompt, body.add_special_tokens is not False
        return await service.off_loop(len(text), lambda: builder.tokenize(text, add_special=special))
    messages, how = body.messages or [], layout(body)
    if body.tools is not None:
        shown = read_tools(tools.definitions(body.tools), ToolChoice()).shown
        how = msgspec.structs.replace(how, tools=shown)
    size = size_of(messages) + tools.size_of(body.tools)
    return await service.off_loop(size, lambda: builder.render(messages, how)[1])


def _check_model(service: Service, name: str | None) -> None:
    """Here the name may be left out."""
    service.resolve(service.names[0] if name is None else name)


def _tokenizer(service: Service) -> Tokenizer:
    if service.builder.tokenizer is None:
        raise UserError(
            "this server has no tokenizer", hint="start it without --skip-tokenizer-init", field="model"
        )
    return service.builder.tokenizer
