"""LLM: a model in this process, for programs. vLLM's names and behaviour.

Owns the order of start-up and shutdown and the progress bar; requests are built and answered by
`front`, computed by the engine.
"""

from __future__ import annotations

import logging
import random
import signal
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from octavo.checkpoint.find import locate
from octavo.core import heap
from octavo.core.errors import Unsupported, UserError
from octavo.core.events import CoreStats
from octavo.engine.inline import InlineClient
from octavo.front import calls, checks
from octavo.front.batch import Batch, Told
from octavo.front.beam import BeamSearchParams
from octavo.front.beams import ONE_TOKEN, BeamSearchOutput, Search, alternatives
from octavo.front.forms import several
from octavo.front.hf_view import HFView
from octavo.front.metrics import Metric, snapshot
from octavo.front.outputs import RequestOutput
from octavo.front.params import SamplingParams
from octavo.front.prepared import Prepared
from octavo.front.prompt import ChatOptions, PromptBuilder, load_text
from octavo.front.speech import Formats
from octavo.observe.meter import Meter
from octavo.text.chat import find_template

log = logging.getLogger(__name__)

Params = SamplingParams | Sequence[SamplingParams] | None
Bar = bool | Callable[..., Any]


class LLM:
    """A model, loaded by the constructor.

    `model` is a Hugging Face id, a folder or a .gguf file; none is the default model. Settings are
    those of `octavo serve` without the server's, in vLLM's names; its settings that do not exist
    here are taken at their neutral values. UserError says what cannot be and what would do.

    A context manager; without `with` the engine ends with the object or the program.
    """

    def __init__(self, model: str | None = None, **settings: Any) -> None:
        with heap.swept_once():
            self._load(model, settings)
        self._queued: dict[str, str] = {}  # first row of an enqueued request -> its id

    def _load(self, model: str | None, settings: dict[str, Any]) -> None:
        self.config = calls.config_from(model, settings)
        self._files = locate(self.config.model)
        self._text = load_text(self.config.model, self._files)
        self._client = InlineClient(self.config, self._files)
        self._close = weakref.finalize(self, self._client.close)
        self.ready = self._client.ready
        for made in self.ready.decisions:
            log.log(logging.WARNING if made.idle else logging.INFO, "%s", made)
        draws = random.Random(self.config.model.seed)
        self._builder = PromptBuilder.of(
            self.config, self._text, self.ready, draw=lambda: draws.getrandbits(63)
        )
        self._meter = Meter(self.ready.max_model_len)
        self._batch = Batch(self._client, self._text.tokenizer, self._meter, self.ready.budget)

    @classmethod
    def from_engine_args(cls, args: Any) -> LLM:
        """From an object whose attributes are settings (vLLM's EngineArgs)."""
        return cls(**vars(args))

    # -- generation -----------------------------------------------------------------------

    def generate(
        self,
        prompts: Any,
        sampling_params: Params = None,
        *,
        use_tqdm: Bar = True,
        lora_request: Any = None,
        priority: Sequence[int] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Completes prompts: text, token ids, {"prompt": ...}, {"prompt_token_ids": ...}, or a list of
        them. One SamplingParams for all or one for each; none means the model's own defaults.

        Outputs come in the order of the prompts. Nothing runs when any prompt is refused.
        """
        calls.refuse(lora_request=lora_request, mm_processor_kwargs=mm_processor_kwargs)
        return self._run(self._prompts(prompts, sampling_params, priority, tokenization_kwargs), use_tqdm)

    def chat(
        self,
        messages: Sequence[Any],
        sampling_params: Params = None,
        use_tqdm: Bar = True,
        lora_request: Any = None,
        chat_template: str | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answers one conversation (a list of messages) or several (a list of such lists)."""
        how = self._how(
            chat_template,
            chat_template_content_format,
            add_generation_prompt,
            continue_final_message,
            tools,
            chat_template_kwargs,
        )
        calls.refuse(lora_request=lora_request, mm_processor_kwargs=mm_processor_kwargs)
        return self._run(
            self._conversations(messages, sampling_params, None, how, tokenization_kwargs), use_tqdm
        )

    def beam_search(
        self,
        prompts: Any,
        params: BeamSearchParams,
        lora_request: Any = None,
        use_tqdm: Bar = False,
        concurrency_limit: int | None = None,
    ) -> list[BeamSearchOutput]:
        """The likeliest continuations of each prompt, best first. Prompts are searched side by side,
        `concurrency_limit` of them at once. Every step reads what it can from the prefix cache."""
        calls.refuse(lora_request=lora_request)
        rows = list(prompts) if several(prompts) else [prompts]
        searches = [Search(self._builder, self._builder.build(row, ONE_TOKEN), params) for row in rows]
        width = (
            len(rows)
            if concurrency_limit is None
            else checks.integer("concurrency_limit", concurrency_limit, 1, checks.INT32)
        )
        with _progress(use_tqdm, len(rows)) as told:
            for at in range(0, len(rows), width or 1):
                self._search(searches[at : at + width], told)
        return [search.output() for search in searches]

    def enqueue(
        self,
        prompts: Any,
        sampling_params: Params = None,
        *,
        use_tqdm: Bar = True,
        lora_request: Any = None,
        priority: Sequence[int] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """As generate, but returns the requests' ids at once; `wait_for_completion` computes them."""
        calls.refuse(lora_request=lora_request, mm_processor_kwargs=mm_processor_kwargs)
        return self._enqueue(self._prompts(prompts, sampling_params, priority, tokenization_kwargs))

    def enqueue_chat(
        self,
        messages: Sequence[Any],
        sampling_params: Params = None,
        *,
        use_tqdm: Bar = True,
        lora_request: Any = None,
        priority: Sequence[int] | None = None,
        chat_template: str | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """As chat, but returns the requests' ids at once."""
        how = self._how(
            chat_template,
            chat_template_content_format,
            add_generation_prompt,
            continue_final_message,
            tools,
            chat_template_kwargs,
        )
        calls.refuse(lora_request=lora_request, mm_processor_kwargs=mm_processor_kwargs)
        return self._enqueue(
            self._conversations(messages, sampling_params, priority, how, tokenization_kwargs)
        )

    def wait_for_completion(
        self, output_type: type | None = None, *, use_tqdm: Bar = True
    ) -> list[RequestOutput]:
        """Computes everything enqueued and returns it in the order of enqueueing."""
        if output_type not in (None, RequestOutput):
            raise Unsupported("only RequestOutput is produced", hint="leave it out", field="output_type")
        keys, self._queued = list(self._queued), {}
        return self._finish(keys, use_tqdm)

    # -- the model and the engine ---------------------------------------------------------

    def get_tokenizer(self) -> HFView:
        """encode, decode, apply_chat_template and the like, with transformers' names."""
        return calls.tokenizer_view(self._text, self._builder)

    def get_default_sampling_params(self) -> SamplingParams:
        return self._builder.default_params()

    def get_metrics(self) -> list[Metric]:
        """Counters, gauges and histograms since the start, under vLLM's names."""
        return snapshot(self._meter, self._client.stats(), self._files.name)

    def stats(self) -> CoreStats:
        """The engine's counters since its start."""
        return self._client.stats()

    def start_profile(self, *, operators: bool = True) -> None:
        """Begins to record a trace of what the device does; without `operators` of a GPU's kernels alone."""
        folder = self.config.observe.profiler_dir or "profiles"
        self._client.call("start_profile", folder=folder, operators=operators)

    def stop_profile(self) -> str:
        """Ends the recording; the path of the trace, for Perfetto or chrome://tracing. It lies in
        `profiler_dir`, or in ./profiles where none was given."""
        return str(self._client.call("stop_profile"))

    def get_world_size(self, include_dp: bool = True) -> int:
        return 1

    def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        """Forgets cached prompts. False while requests hold some of it."""
        return bool(self._client.call("reset_prefix_cache"))

    def reset_mm_cache(self) -> None:
        """There are no media, hence nothing to forget."""

    def close(self) -> None:
        """Ends the engine and frees its memory. Safe to call twice."""
        self._close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        facts = self.ready.facts
        return f"LLM({self._files.name!r}, {facts.architecture}, {self.ready.dtype})"

    def __getattr__(self, name: str) -> Any:
        """Methods of vLLM's LLM that have no counterpart here say so, others do not exist."""
        if name in _ABSENT:
            raise Unsupported(f"LLM.{name} is not supported", hint=_ABSENT[name])
        raise AttributeError(f"LLM has no attribute {name!r}")

    # -- inside ---------------------------------------------------------------------------

    def _how(
        self,
        template: str | None,
        content_format: str,
        generation: bool,
        final: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any] | None,
    ) -> ChatOptions:
        if content_format not in ("auto", "string"):
            raise Unsupported(
                f"chat_template_content_format {content_format!r} is not supported",
                hint="auto or string",
                field="chat_template_content_format",
            )
        own = None if template is None else find_template(template, self._text.tokenizer)
        return ChatOptions(
            template=own,
            add_generation_prompt=generation,
            continue_final_message=final,
            tools=tools,
            variables=variables,
            reasoning=Formats.of(self.config.serve, own or self._text.template).reasoning,
        )

    def _prompts(
        self,
        prompts: Any,
        params: Params,
        priority: Sequence[int] | None,
        tokenization: Mapping[str, Any] | None,
    ) -> Iterator[Prepared]:
        rows = list(prompts) if several(prompts) else [prompts]
        chosen = calls.each(params, len(rows), "sampling_params")
        ranks = calls.each(priority or 0, len(rows), "priority")
        return (
            self._builder.build(row, one, calls.options_from(tokenization, priority=rank or 0))
            for row, one, rank in zip(rows, chosen, ranks, strict=True)
        )

    def _conversations(
        self,
        messages: Sequence[Any],
        params: Params,
        priority: Sequence[int] | None,
        how: ChatOptions,
        tokenization: Mapping[str, Any] | None,
    ) -> Iterator[Prepared]:
        many = bool(messages) and not isinstance(messages[0], Mapping)
        rows = list(messages) if many else [messages]
        chosen = calls.each(params, len(rows), "sampling_params")
        ranks = calls.each(priority or 0, len(rows), "priority")
        return (
            self._builder.build_chat(row, one, how, calls.options_from(tokenization, priority=rank or 0))
            for row, one, rank in zip(rows, chosen, ranks, strict=True)
        )

    def _run(self, prepared: Iterable[Prepared], bar: Bar) -> list[RequestOutput]:
        self._check_open()
        with _interruptible(lambda ended, tokens: None) as told:
            keys = self._batch.submit(prepared, True, told)
        return self._finish(keys, bar)

    def _search(self, searches: Sequence[Search], told: Told) -> None:
        """Step by step, all of them together."""
        while left := [search for search in searches if not search.done]:
            asked = [search.requests() for search in left]
            outputs = iter(self._run([one for some in asked for one in some], False))
            for search, some in zip(left, asked, strict=True):
                search.take([alternatives(next(outputs)) for _ in some])
            told(sum(search.done for search in left), sum(map(len, asked)))

    def _enqueue(self, prepared: Iterable[Prepared]) -> list[str]:
        ready = list(prepared)
        keys = self._batch.submit(ready)
        self._queued.update({key: one.id for key, one in zip(keys, ready, strict=True)})
        return [one.id for one in ready]

    def _finish(self, keys: list[str], bar: Bar) -> list[RequestOutput]:
        self._check_open()
        with _progress(bar, len(keys)) as shown, _interruptible(shown) as told:
            return self._batch.finish(keys, told)

    def _check_open(self) -> None:
        if not self._close.alive:
            raise UserError("this LLM is closed", hint="make another")


_POOLING = "pooling models are not loaded yet"
_ABSENT = {
    "encode": _POOLING,
    "embed": _POOLING,
    "classify": _POOLING,
    "score": _POOLING,
    "reward": _POOLING,
    "collective_rpc": "the engine runs in this process",
    "apply_model": "the engine runs in this process",
    "sleep": "close the LLM to free its memory",
    "wake_up": "close the LLM to free its memory",
    "init_weight_transfer_engine": "weights are read from files",
    "start_weight_update": "weights are read from files",
    "update_weights": "weights are read from files",
    "finish_weight_update": "weights are read from files",
    "llm_engine": "use LLM's own methods",
}


@contextmanager
def _progress(bar: Bar, total: int) -> Iterator[Told]:
    """True shows a bar in a terminal; a callable is asked for one like tqdm's."""
    if bar is False or total == 0:
        yield lambda ended, tokens: None
    elif bar is True:
        yield from _rich(total)
    else:
        shown = bar(total=total, desc="Processed prompts")
        try:
            yield lambda ended, tokens: shown.update(ended) if ended else None
        finally:
            shown.close()


@contextmanager
def _interruptible(told: Told) -> Iterator[Told]:
    """Ctrl-C takes effect between two steps, where the engine's books are in order; a second one at
    once. Elsewhere than in the main thread there are no signals to wait for."""
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or usual is not signal.default_int_handler:
        yield told
        return
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    def between(ended: int, tokens: int) -> None:
        told(ended, tokens)
        if asked.is_set():
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, ask)
    try:
        yield between
    finally:
        signal.signal(signal.SIGINT, usual)


def _rich(total: int) -> Iterator[Told]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("prompts"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[tokens]} tokens"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total, tokens=0)
        count = 0

        def told(ended: int, tokens: int) -> None:
            nonlocal count
            count += tokens
            progress.update(task, advance=ended, tokens=count)

        yield told
