"""A server on an engine that says what the test wants: real tokenizer, real front, scripted deltas."""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from starlette.applications import Starlette
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from octavo.config.engine import EngineConfig
from octavo.core.errors import EngineError
from octavo.core.events import CoreStats, Timeline
from octavo.core.facts import CacheGroup, CachePlan, ModelFacts, ModelFiles, Ready
from octavo.core.request import Delta, EngineRequest, Finish, PositionLogprobs, Sampling
from octavo.front.defaults import Defaults
from octavo.front.prompt import PromptBuilder, TextSide
from octavo.front.service import Front
from octavo.server.app import build
from octavo.server.service import Service
from octavo.text.chat import ChatTemplate
from octavo.text.tokenizer import Tokenizer
from octavo.text.vocabulary import Vocabulary

MODEL = "tiny"
CONTEXT = 256
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w"), ("t", "he")]


def make_tokenizer(*specials: str) -> Tokenizer:
    """Bytes, six merges, two special tokens, and these."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: n for n, token in enumerate([*letters, *("".join(pair) for pair in MERGES)])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=MERGES))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)]
    )
    backend.add_special_tokens([AddedToken(one, special=True) for one in specials])
    end = backend.token_to_id("<|im_end|>")
    return Tokenizer(Vocabulary(backend=backend, source="tiny", eos=(end,), templates={"default": TEMPLATE}))


class FakeEngine:
    """The client's interface. `say` gives the text of a row; `hold` stops all rows after so many
    tokens until `go` is set."""

    def __init__(self, tokenizer: Tokenizer, say: Callable[[EngineRequest], str]) -> None:
        self.tokenizer = tokenizer
        self.say = say
        self.stats = CoreStats(blocks_total=10)
        self.restarts = 0
        self.sick: str | None = None
        self.hold: int | None = None
        self.go = asyncio.Event()
        self.broken: EngineError | None = None  # raised after one token
        self.submitted: list[EngineRequest] = []
        self.open: dict[str, EngineRequest] = {}
        self.aborted: list[str] = []
        self.idle = asyncio.Event()
        self.idle.set()

    def submit(self, requests: Sequence[EngineRequest]) -> AsyncIterator[Delta]:
        if isinstance(self.broken, EngineError) and self.hold == -1:
            raise self.broken
        self.submitted += requests
        self.open.update({one.id: one for one in requests})
        self.idle.clear()
        return self._run(requests)

    def abort(self, ids: Iterable[str]) -> None:
        known = [id for id in ids if id in self.open]
        self.aborted += known
        self._close(known)

    def health(self) -> str | None:
        return self.sick

    async def call(self, name: str, **args: Any) -> Any:
        return {"name": name, **args}

    async def _run(self, requests: Sequence[EngineRequest]) -> AsyncIterator[Delta]:
        rows = {one.id: list(self._deltas(one)) for one in requests}
        said = 0
        while rows:
            for id in list(rows):
                if self.hold is not None and said >= self.hold:
                    await self.go.wait()
                if self.broken is not None and said:
                    self._close(rows)
                    raise self.broken
                said += 1
                if id not in self.open:
                    rows.pop(id)
                    yield Delta(id=id, finish=Finish.ABORT)
                    continue
                delta = rows[id].pop(0)
                if delta.finish is not None:
                    rows.pop(id)
                    self._close([id])
                yield delta
                await asyncio.sleep(0)

    def _close(self, ids: Iterable[str]) -> None:
        for id in list(ids):
            self.open.pop(id, None)
        if not self.open:
            self.idle.set()

    def _deltas(self, request: EngineRequest) -> Iterable[Delta]:
        sampling = request.sampling
        assert sampling is not None
        ids = self.tokenizer.encode(self.say(request), add_special=False)
        end = sampling.eos[0] if sampling.eos else None
        out = [*ids, *([end] if end is not None else [])][: sampling.max_tokens]
        scores = self._prompt_scores(request)
        timeline = Timeline(arrived=1.0, queued=1.0, scheduled=1.5, first_token=2.0, last_token=3.0)
        if not out:
            yield Delta(
                id=request.id,
                cached_tokens=0,
                prompt_logprobs=scores,
                finish=Finish.LENGTH,
                timeline=timeline,
            )
            return
        for n, token in enumerate(out):
            last = n == len(out) - 1
            ended = last and token == end
            yield Delta(
                id=request.id,
                tokens=(token,),
                logprobs=self._sampled_scores(sampling, token),
                prompt_logprobs=scores if n == 0 else (),
                cached_tokens=(len(request.tokens) // 16 * 16 if n == 0 else None),
                finish=(Finish.STOP if ended else Finish.LENGTH) if last else None,
                stop_token=token if ended else None,
                timeline=timeline if last else None,
            )

    def _sampled_scores(self, sampling: Sampling, token: int) -> tuple[PositionLogprobs, ...]:
        if sampling.logprob_token_ids:
            named = sampling.logprob_token_ids
            scores = tuple(-10.0 - at for at in range(len(named)))
            return (PositionLogprobs(token, -1.5, 2, named, scores, tuple(range(10, 10 + len(named)))),)
        return () if sampling.logprobs is None else (self._score(token, sampling.logprobs),)

    def _prompt_scores(self, request: EngineRequest) -> tuple[PositionLogprobs, ...]:
        assert request.sampling is not None
        wanted = request.sampling.prompt_logprobs
        return () if wanted is None else tuple(self._score(t, wanted) for t in request.tokens[1:])

    def _score(self, token: int, count: int) -> PositionLogprobs:
        """The token itself is second best; the best is its neighbour; the worst impossible."""
        top = [((token + 1) % 256, -0.25), (token, -1.5), ((token + 2) % 256, float("-inf"))][:count]
        return PositionLogprobs(token, -1.5, 2, tuple(i for i, _ in top), tuple(v for _, v in top))


def parrot(request: EngineRequest) -> str:
    """A default answer: Unicode, and different for every prompt and row."""
    return f"hello wörld 🦜 {sum(request.tokens) % 97}/{request.seed % 7}"


class House:
    """The app and the engine behind it."""

    def __init__(
        self,
        say: Callable[[EngineRequest], str] = parrot,
        config: EngineConfig | None = None,
        template: bool | str = True,
        context: int = CONTEXT,
        specials: tuple[str, ...] = (),
    ) -> None:
        config = config or EngineConfig()
        if config.files.files_dir is None:  # made only when a test keeps files
            folder = Path(tempfile.gettempdir()) / f"octavo-house-{uuid.uuid4().hex}"
            files = dataclasses.replace(config.files, files_dir=str(folder))
            config = dataclasses.replace(config, files=files)
        tokenizer = make_tokenizer(*specials)
        self.tokenizer = tokenizer
        self.engine = FakeEngine(tokenizer, say)
        ready = Ready(
            cache=CachePlan(page_bytes=1, pages=11, groups=(CacheGroup("full", "full", 16),), max_rows=8),
            facts=ModelFacts(
                architecture="Tiny",
                vocab_size=tokenizer.vocab_size,
                max_position=context,
                num_layers=1,
                eos_token_ids=tokenizer.eos_token_ids,
            ),
            max_model_len=context,
            dtype="float32",
            attention="none",
        )
        source = template if isinstance(template, str) else TEMPLATE
        text = TextSide(tokenizer, ChatTemplate(source, tokenizer) if template else None, Defaults({}))
        self.builder = PromptBuilder(text, ready, draw=lambda: 5)
        files = ModelFiles(name=MODEL, root="", weights=(), format="dummy", config=None, tokenizer="")
        self.service = Service(
            config, files, ready, self.engine, Front(self.engine, self.builder), self.builder
        )
        self.app: Starlette = build(self.service)
