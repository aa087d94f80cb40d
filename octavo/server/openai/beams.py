"""use_beam_search: a job whose answers are the beams of a search, all told at its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from octavo.core.errors import Unsupported, UserError
from octavo.front.answer import Chunk
from octavo.front.beam import BeamSearchParams
from octavo.front.beams import Search
from octavo.front.logprobs import Logprob
from octavo.front.prepared import Prepared
from octavo.front.prompt import Options
from octavo.server.gate import Ticket
from octavo.server.openai.job import Job, Piece, failure
from octavo.server.openai.types import GenerateRequest, RepetitionDetection, ResponseFormat
from octavo.server.service import Service

# fields that change what is drawn, and the values at which they do not
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "stop": ([], ""),
    "stop_token_ids": ([],),
    "min_tokens": (0,),
    "presence_penalty": (0.0,),
    "frequency_penalty": (0.0,),
    "repetition_penalty": (1.0,),
    "logit_bias": ({},),
    "allowed_token_ids": (),
    "bad_words": ([],),
    "vllm_xargs": ({},),
    "repetition_detection": (RepetitionDetection(), RepetitionDetection(0)),
    "prompt_logprobs": (False,),
    "response_format": (ResponseFormat("text"),),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
}


def check(body: GenerateRequest) -> None:
    """Unsupported when something is asked for that does not go together."""
    if not body.use_beam_search:
        if body.length_penalty not in (None, 1.0):
            hint = "set use_beam_search to true, or leave it out"
            raise Unsupported("length_penalty needs use_beam_search", hint=hint, field="length_penalty")
        return
    for name, neutral in _NEUTRAL.items():
        value = getattr(body, name)
        if value is not None and value not in neutral:
            hint = "leave it out, or set use_beam_search to false"
            raise Unsupported(f"{name} is not available in a beam search", hint=hint, field=name)
    if body.max_tokens == 0:
        raise UserError("a beam search needs tokens", hint="set max_tokens above 0", field="max_tokens")
    _params(body, 1, 1)


def job(
    service: Service,
    body: GenerateRequest,
    prepared: Sequence[Prepared],
    options: Options,
    ticket: Ticket,
    started: float,
) -> Job:
    """What answers the request: a beam search where one is asked for."""
    if not body.use_beam_search:
        return Job(service, prepared, ticket, started)
    searches = []
    for one in prepared:
        if one.requests[0].grammar is not None or one.params.prompt_logprobs is not None:
            what = "an answer in a given form" if one.requests[0].grammar else "echo with logprobs"
            hint = "leave it out, or set use_beam_search to false"
            raise Unsupported(f"{what} is not available in a beam search", hint=hint, field="use_beam_search")
        sampling = one.requests[0].sampling
        params = _params(body, one.params.n, sampling.max_tokens if sampling else 1)
        try:
            searches.append(Search(service.builder, one, params, options))
        except UserError as error:  # a beam is as wide as n here
            message = error.message.replace("beam_width", "n")
            raise UserError(message, hint=error.hint, field="n") from None
    return BeamJob(service, searches, ticket, started)


class BeamJob(Job):
    """The rows of the prepared requests are never submitted: the steps of the searches are."""

    def __init__(self, service: Service, searches: Sequence[Search], ticket: Ticket, started: float) -> None:
        super().__init__(service, [search.prepared for search in searches], ticket, started)
        self._front = service.front
        self._searches = searches

    async def _merged(self) -> AsyncGenerator[Piece, None]:
        cached = await _all([self._run(search) for search in self._searches])
        for at, search in enumerate(self._searches):
            for row, beam in enumerate(search.best()):
                params = search.prepared.params
                yield Piece(
                    at,
                    Chunk(
                        index=row,
                        text=search.text(beam, skip_special=params.skip_special_tokens),
                        token_ids=beam.tokens,
                        logprobs=None if params.logprobs is None else beam.rows,
                        finish_reason=beam.finish,
                        cached_tokens=cached[at],
                    ),
                )

    async def _run(self, search: Search) -> int:
        """To its end. Returns how many tokens of the prompt were in the cache."""
        cached: int | None = None
        while not search.done:
            steps = await _all([self._step(one) for one in search.requests()])
            search.take([row for row, _ in steps])
            cached = steps[0][1] if cached is None else cached
        return cached or 0

    async def _step(self, prepared: Prepared) -> tuple[dict[int, Logprob], int]:
        row: dict[int, Logprob] = {}
        cached = 0
        async with contextlib.aclosing(self._front.generate(prepared)) as chunks:
            async for chunk in chunks:
                if chunk.finish_reason == "error":
                    raise failure(chunk)
                cached += chunk.cached_tokens or 0
                row.update(*(chunk.logprobs or ())[:1])
        return row, cached


async def _all(work: Sequence[Any]) -> list[Any]:
    """Their results; none of them goes on when one fails or nobody waits any more."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _params(body: GenerateRequest, width: int, most: int) -> BeamSearchParams:
    return BeamSearchParams(
        beam_width=width,
        max_tokens=most,
        ignore_eos=bool(body.ignore_eos),
        temperature=body.temperature or 0.0,
        length_penalty=1.0 if body.length_penalty is None else body.length_penalty,
        include_stop_str_in_output=bool(body.include_stop_str_in_output),
    )
