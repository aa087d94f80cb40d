"""AsyncLLM: a model in a process of its own, for asynchronous programs. vLLM's names.

Owns start-up and shutdown of that process; everything else is `front`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from octavo.checkpoint.find import locate
from octavo.core.errors import EngineDead
from octavo.engine.client import CoreClient
from octavo.front import calls
from octavo.front.collect import Collector
from octavo.front.hf_view import HFView
from octavo.front.outputs import RequestOutput
from octavo.front.params import SamplingParams
from octavo.front.prompt import Options, PromptBuilder, load_text
from octavo.front.service import Front

_LONG = 4096  # characters; longer prompts are tokenised in a thread, so that streams go on


class AsyncLLM:
    """Files and tokenizer are read by the constructor; the engine starts with the first call that
    needs it, or with `start`. Everything asynchronous belongs to one event loop."""

    def __init__(self, model: str | None = None, **settings: Any) -> None:
        self.config = calls.config_from(model, settings)
        self._files = locate(self.config.model)
        self._text = load_text(self.config.model, self._files)
        self._client: CoreClient | None = None
        self._builder: PromptBuilder | None = None
        self._starting: asyncio.Task[None] | None = None
        self._rows: dict[str, tuple[str, ...]] = {}  # open requests by the caller's id
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    def from_engine_args(cls, args: Any, **ignored: Any) -> AsyncLLM:
        """From an object whose attributes are settings (vLLM's AsyncEngineArgs)."""
        return cls(**vars(args))

    async def start(self) -> None:
        """Starts the engine unless it runs. Raises its typed errors."""
        if self._closed:
            raise EngineDead("this AsyncLLM was shut down")
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        client = CoreClient(self.config, self._files)
        try:
            ready = await client.start()
        except BaseException:
            self._starting = None
            await client.close()
            raise
        self._builder = PromptBuilder.of(self.config, self._text, ready)
        self._client = client

    async def _engine(self) -> tuple[CoreClient, PromptBuilder]:
        await self.start()
        assert self._client is not None and self._builder is not None
        return self._client, self._builder

    # -- generation -----------------------------------------------------------------------

    async def generate(
        self,
        prompt: Any,
        sampling_params: SamplingParams | None,
        request_id: str,
        *,
        prompt_text: str | None = None,
        lora_request: Any = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        trace_headers: Mapping[str, str] | None = None,
        priority: int = 0,
        data_parallel_rank: int | None = None,
    ) -> AsyncIterator[RequestOutput]:
        """Outputs as `sampling_params.output_kind` wants them. Leaving the iteration early, or
        cancelling it, stops the request."""
        calls.refuse(lora_request=lora_request, data_parallel_rank=data_parallel_rank)
        client, builder = await self._engine()
        options = calls.options_from(tokenization_kwargs, id=request_id, priority=priority)
        prepared = await self._off_loop(builder, prompt, sampling_params, options)
        collector = Collector(prepared)
        self._rows[request_id] = tuple(request.id for request in prepared.requests)
        try:
            async with contextlib.aclosing(Front(client, builder).generate(prepared)) as chunks:
                async for chunk in chunks:
                    if (output := collector.add(chunk)) is not None:
                        yield output
        finally:
            self._rows.pop(request_id, None)

    async def _off_loop(
        self, builder: PromptBuilder, prompt: Any, params: SamplingParams | None, options: Options
    ) -> Any:
        text = prompt.get("prompt") if isinstance(prompt, Mapping) else prompt
        if isinstance(text, str) and len(text) > _LONG:
            return await asyncio.to_thread(builder.build, prompt, params, options)
        return builder.build(prompt, params, options)

    async def abort(self, request_id: str | Iterable[str], internal: bool = False) -> None:
        """Ends requests; their generators finish with reason "abort". Unknown ids are ignored."""
        ids = [request_id] if isinstance(request_id, str) else list(request_id)
        if self._client is not None:
            self._client.abort([row for id in ids for row in self._rows.get(id, ())])

    # -- the model and the engine ---------------------------------------------------------

    def get_tokenizer(self) -> HFView:
        return calls.tokenizer_view(self._text, self._builder)

    @property
    def tokenizer(self) -> HFView:
        return self.get_tokenizer()

    async def reset_prefix_cache(
        self, reset_running_requests: bool = False, reset_connector: bool = False
    ) -> bool:
        client, _ = await self._engine()
        return bool(await client.call("reset_prefix_cache"))

    async def check_health(self) -> None:
        """Raises EngineDead, with the reason, when the engine does not progress."""
        if self._closed:
            raise EngineDead("this AsyncLLM was shut down")
        if self._client is not None and (reason := self._client.health()) is not None:
            raise EngineDead(reason)

    async def is_tracing_enabled(self) -> bool:
        return False

    async def get_supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    async def do_log_stats(self) -> None:
        """Statistics are in the log of the server only."""

    @property
    def errored(self) -> bool:
        return self._client is not None and self._client.health() is not None

    @property
    def is_running(self) -> bool:
        return not self._closed and not self.errored

    @property
    def is_stopped(self) -> bool:
        return self._closed

    def shutdown(self, timeout: float | None = None) -> None:
        """Ends the engine. While its event loop runs this is a task of the loop: await `aclose`
        instead to wait for it."""
        loop = self._loop
        if loop is None:
            self._closed = True
        elif loop.is_running():
            self._ending = loop.create_task(self.aclose())
        elif not loop.is_closed():
            loop.run_until_complete(self.aclose())
        elif self._client is not None and self._client.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._client.pid, signal.SIGTERM)

    async def aclose(self) -> None:
        self._closed = True
        if self._starting is not None:
            with contextlib.suppress(Exception):
                await self._starting
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def __aenter__(self) -> AsyncLLM:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()
