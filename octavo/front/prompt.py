"""The one place where requests are built: for `LLM`, `AsyncLLM` and every HTTP route.

Text or messages become checked token ids, parameters become rows for the engine. Knows nothing
of HTTP, queues or answers. May be called from any thread.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from octavo.config.engine import EngineConfig
from octavo.config.grammar import GrammarConfig
from octavo.config.model import ModelConfig
from octavo.core.errors import ArtefactError, UserError
from octavo.core.facts import ModelFiles, Ready
from octavo.core.request import EngineRequest, GrammarSpec, Sampling
from octavo.front import checks, infill
from octavo.front.defaults import Defaults, read_defaults
from octavo.front.forms import Form, check_ids, read_prompt, read_salt
from octavo.front.lower import Lowering
from octavo.front.params import SamplingParams
from octavo.front.prepared import Prepared
from octavo.front.shorten import shortened
from octavo.front.teach import teach
from octavo.grammar.thought import Thought
from octavo.parsers import chain
from octavo.text import chat
from octavo.text.chat import ChatTemplate
from octavo.text.tokenizer import Tokenizer

_SEEDS = (1 << 63) - 1


class TextSide(NamedTuple):
    """What can be read while the core still loads its weights."""

    tokenizer: Tokenizer | None
    template: ChatTemplate | None
    defaults: Defaults


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says besides prompt and sampling. `tenant` keeps prefix caches of different
    keys apart; `strict` refuses a max_tokens that cannot fit instead of lowering it; `prompt_only`
    computes (and scores) the prompt and samples nothing; `truncate` keeps so many tokens of a
    longer prompt, its last ones unless `truncate_side` is "right" (-1: what fits the context);
    `patient` lets every other request go first."""

    id: str | None = None
    priority: int = 0
    patient: bool = False
    tenant: str = ""
    cache_salt: str | None = None
    add_special: bool = True
    strict: bool = False
    prompt_only: bool = False
    truncate: int | None = None
    truncate_side: str = "left"
    trace: str = ""


class ChatOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How messages become a prompt. `template` replaces the model's own (offline use only).
    `reasoning` names the parser of this model's reasoning, which no constraint touches then.
    `shorten`: the oldest turns are left out where all would not fit."""

    tools: Sequence[Mapping[str, Any]] | None = None
    documents: Sequence[Mapping[str, Any]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    variables: Mapping[str, Any] | None = None
    template: ChatTemplate | None = None
    add_special: bool = False
    reasoning: str | None = None
    shorten: bool = False


PLAIN, CHAT = Options(), ChatOptions()


def load_text(config: ModelConfig, files: ModelFiles) -> TextSide:
    """Tokenizer, chat template and generation defaults of a model. ArtefactError for broken files."""
    tokenizer = Tokenizer.load(files.tokenizer) if files.tokenizer else None
    return TextSide(
        tokenizer, chat.find_template(config.chat_template, tokenizer), read_defaults(config, files)
    )


class PromptBuilder:
    """`draw` gives a seed in [0, 2**63) to a request that brings none."""

    def __init__(
        self,
        text: TextSide,
        ready: Ready,
        *,
        max_logprobs: int = 20,
        grammar: GrammarConfig | None = None,
        draw: Callable[[], int] = lambda: secrets.randbits(63),
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.tokenizer, self.template, self.defaults = text
        self.max_model_len = ready.max_model_len
        self.vocab_size = ready.facts.vocab_size
        _check_ends(text.defaults.eos, self.vocab_size)
        eos = (*ready.facts.eos_token_ids, *text.defaults.eos)
        own = text.tokenizer.eos_token_ids if text.tokenizer is not None else ()
        self._lowering = Lowering(
            text.tokenizer, self.vocab_size, (*own, *eos), max_logprobs, grammar or GrammarConfig()
        )
        self.eos = self._lowering.eos
        self.max_logprobs = self._lowering.max_logprobs
        self._draw = draw
        self._clock = clock
        self._wall = wall
        self._count = itertools.count()

    @classmethod
    def of(cls, config: EngineConfig, text: TextSide, ready: Ready, **sources: Any) -> PromptBuilder:
        return cls(text, ready, max_logprobs=config.model.max_logprobs, grammar=config.grammar, **sources)

    # -- parameters -----------------------------------------------------------------------

    def default_params(self) -> SamplingParams:
        """For a caller that gives none: the model's own defaults."""
        return SamplingParams(**self.defaults.sampling)

    def params(self, given: Mapping[str, Any]) -> SamplingParams:
        """Fields of a request over the model's defaults; None means "not given"."""
        fields = {name: value for name, value in given.items() if value is not None}
        return SamplingParams.from_optional(**{"max_tokens": None, **self.defaults.sampling, **fields})

    # -- prompts --------------------------------------------------------------------------

    def build(self, prompt: Any, params: SamplingParams | None = None, options: Options = PLAIN) -> Prepared:
        """One request from text, ids, or a mapping of them. UserError names field and limit."""
        form = read_prompt(prompt)
        ids = self._ids(form, options)
        salt = options.cache_salt if options.cache_salt is not None else form.salt or None
        return self._prepare(form.text, ids, params, msgspec.structs.replace(options, cache_salt=salt))

    def build_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        how: ChatOptions = CHAT,
        options: Options = PLAIN,
    ) -> Prepared:
        """One request from a conversation."""
        text, ids = self._fitted(messages, params, how) if how.shorten else self.render(messages, how)
        thought = _thought(how.reasoning, text)
        return self._prepare(text, self._truncate(ids, options), params, options, thought)

    def render(
        self, messages: Sequence[Mapping[str, Any]], how: ChatOptions = CHAT
    ) -> tuple[str, tuple[int, ...]]:
        """A conversation as the model reads it: text and ids."""
        template = how.template or self.template
        if self.tokenizer is None:
            raise UserError(
                "messages need a tokenizer", hint="start without skip_tokenizer_init", field="messages"
            )
        if template is None:
            raise UserError(
                "this model has no chat template: it is a base model, which completes text",
                hint="give one with --chat-template, or use completions",
                field="messages",
            )
        if not template.knows("tools"):
            messages = teach(chat.clean_messages(messages), how.tools or ())
        rendered = template.render(
            messages,
            tools=how.tools,
            documents=how.documents,
            add_generation_prompt=how.add_generation_prompt,
            continue_final_message=how.continue_final_message,
            variables=how.variables,
        )
        self._check_characters(rendered.text)
        ids = chat.encode(rendered, self.tokenizer)
        if how.add_special:
            ids = self.tokenizer.encode("", add_special=True) + ids
        return rendered.text, tuple(ids)

    def tokenize(self, text: str, *, add_special: bool = True) -> tuple[int, ...]:
        """Ids of a raw prompt, in which special strings count."""
        if self.tokenizer is None:
            raise UserError(
                "text prompts need a tokenizer",
                hint="send prompt_token_ids, or start without skip_tokenizer_init",
                field="prompt",
            )
        self._check_characters(text)
        return tuple(self.tokenizer.encode(text, add_special=add_special))

    def infill(
        self, prefix: Any, suffix: str, params: SamplingParams | None = None, options: Options = PLAIN
    ) -> Prepared:
        """One request for what stands between two texts. Unsupported when the model knows no such thing."""
        ids, ends = infill.read(self.tokenizer, prefix, suffix, options.truncate)
        self._check_characters(prefix + suffix)
        params = self.default_params() if params is None else params.clone()
        if not params.ignore_eos:
            params.stop_token_ids = [*(params.stop_token_ids or ()), *ends]
        return self._prepare(prefix, ids(add_special=options.add_special), params, options)

    # -- inside ---------------------------------------------------------------------------

    def _fitted(
        self, messages: Sequence[Mapping[str, Any]], params: SamplingParams | None, how: ChatOptions
    ) -> tuple[str, tuple[int, ...]]:
        """The longest end of a conversation that leaves room for the answer."""
        wanted = (self.default_params() if params is None else params).max_tokens
        room = self.max_model_len - min(wanted or 1, self.max_model_len - 1)
        return shortened(messages, lambda rows: self.render(rows, how), room)

    def _ids(self, form: Form, options: Options) -> tuple[int, ...]:
        if form.ids is not None:
            ids = check_ids(form.ids, self.vocab_size, "prompt_token_ids")
        else:
            assert form.text is not None
            ids = self.tokenize(form.text, add_special=options.add_special)
        return self._truncate(ids, options)

    def _truncate(self, ids: tuple[int, ...], options: Options) -> tuple[int, ...]:
        if options.truncate is None:
            return ids
        keep = checks.integer("truncate_prompt_tokens", options.truncate, -1, checks.INT32)
        keep = self.max_model_len - 1 if keep == -1 else keep
        if options.truncate_side == "right" or not keep:
            return ids[:keep]
        return ids[-keep:]

    def _prepare(
        self,
        text: str | None,
        ids: tuple[int, ...],
        params: SamplingParams | None,
        options: Options,
        thought: Thought | None = None,
    ) -> Prepared:
        _check_known(ids, self.vocab_size)
        params = self.default_params() if params is None else params.clone()
        self._lowering.check_detokenize(params)
        room = self._room(ids, options)
        wanted = room if params.max_tokens is None else params.max_tokens
        if options.strict and wanted > room and not options.prompt_only:
            raise UserError(
                f"the prompt has {len(ids)} tokens and max_tokens is {wanted}: "
                f"together more than the context of {self.max_model_len}",
                hint=f"lower max_tokens to {room} or shorten the prompt",
                field="max_tokens",
            )
        max_tokens = 0 if options.prompt_only else min(wanted, room)
        sampling = self._lowering.sampling(params, max_tokens)
        grammar = self._lowering.grammar(params, thought) if max_tokens else None
        number = next(self._count)
        id = options.id if options.id is not None else str(number)
        return Prepared(
            id=id,
            prompt=text,
            token_ids=ids,
            params=params,
            requests=self._rows(f"{id}.{number:x}", ids, params, sampling, grammar, options),
            arrived=self._wall(),
            prompt_only=options.prompt_only,
        )

    def _room(self, ids: tuple[int, ...], options: Options) -> int:
        """Tokens that may follow the prompt."""
        if not ids:
            raise UserError(
                "the prompt is empty", hint="send at least one token or character", field="prompt"
            )
        room = self.max_model_len - len(ids)
        if room < (0 if options.prompt_only else 1):
            raise UserError(
                f"the prompt has {len(ids)} tokens, the context is {self.max_model_len}"
                + ("" if room < 0 else ", which leaves no room for an answer"),
                hint="shorten the prompt or raise --max-model-len",
                field="prompt",
            )
        return room

    def _rows(
        self,
        id: str,
        ids: tuple[int, ...],
        params: SamplingParams,
        sampling: Sampling,
        grammar: GrammarSpec | None,
        options: Options,
    ) -> tuple[EngineRequest, ...]:
        first = EngineRequest(
            id=id,
            tokens=ids,
            seed=self._seed(params, 0),
            sampling=sampling,
            grammar=grammar,
            priority=checks.integer("priority", options.priority, -(1 << 31), checks.INT32),
            patient=options.patient,
            arrived=self._clock(),
            salt=_salt(options),
            skip_cache=bool(params.skip_reading_prefix_cache),
            trace=options.trace,
        )
        # the prompt is scored once; its other answers have nothing of their own to say about it
        unscored = msgspec.structs.replace(sampling, prompt_logprobs=None)
        others = (
            msgspec.structs.replace(
                first,
                id=f"{id}-{i}",
                parent=(id, i),
                seed=self._seed(params, i),
                sampling=unscored,
                skip_cache=first.skip_cache and sampling.prompt_logprobs is None,
            )
            for i in range(1, params.n)
        )
        return (first, *others)

    def _seed(self, params: SamplingParams, child: int) -> int:
        return (params.seed + child) & _SEEDS if params.seed is not None else self._draw() & _SEEDS

    def _check_characters(self, text: str) -> None:
        """Refuses text that cannot fit before time is spent on cutting it into tokens."""
        assert self.tokenizer is not None
        most = self.max_model_len * self.tokenizer.longest_token
        if len(text) > most:
            raise UserError(
                f"the prompt has {len(text)} characters, "
                f"too many for a context of {self.max_model_len} tokens",
                hint="shorten the prompt or raise --max-model-len",
                field="prompt",
            )


def _check_ends(eos: Sequence[int], vocab: int) -> None:
    """A model whose end cannot come would never stop."""
    if beyond := [id for id in eos if id >= vocab]:
        raise ArtefactError(
            f"generation_config.json: 'eos_token_id' {beyond[0]} lies outside the vocabulary of {vocab}",
            hint=f"set it to an id from 0 to {vocab - 1}",
            field="eos_token_id",
        )


def _check_known(ids: Sequence[int], vocab: int) -> None:
    """Ids that callers send were checked before; these are the tokenizer's own."""
    if ids and (largest := max(ids)) >= vocab:
        raise UserError(
            f"the tokenizer makes token {largest} of this text, the model knows 0 to {vocab - 1}",
            hint="name the model's own tokenizer with --tokenizer",
            field="tokenizer",
        )


def _thought(reasoning: str | None, prompt: str) -> Thought | None:
    """How this model marks its reasoning, and whether the prompt has begun it."""
    marks = None if reasoning is None else chain.marks(reasoning, prompt)
    return None if marks is None else Thought(*marks)


def _salt(options: Options) -> str:
    """A tenant's name cannot run into the salt: it has no zero byte."""
    salt = read_salt(options.cache_salt)
    return f"{options.tenant}\0{salt}" if options.tenant or salt else ""
