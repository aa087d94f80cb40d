"""EngineCore: scheduler, loop and executor behind a handful of calls.

Owns the order of start-up and what happens to a request the scheduler refuses. Knows nothing
of processes, sockets or text.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from octavo.config.engine import EngineConfig
from octavo.core.errors import EngineError, Fault, NotFound
from octavo.core.events import CoreStats
from octavo.core.facts import ModelFiles, Ready
from octavo.core.request import Delta, EngineRequest, Finish
from octavo.core.runner import Progress
from octavo.engine.bounds import check_ids
from octavo.engine.loop import Loop
from octavo.engine.masks import Grammars
from octavo.engine.vocabulary import make_backend
from octavo.executor.executor import Executor
from octavo.grammar.backend import GrammarBackend
from octavo.grammar.compile import Compiler
from octavo.scheduler.scheduler import Scheduler
from octavo.scheduler.state import Limits

_log = logging.getLogger(__name__)
_ANY_TIME = ("start_profile", "stop_profile")  # calls that may come between two steps
_BUDGET = 2048  # tokens in a step where neither worker nor settings name one


class EngineCore:
    """Runs requests to their end, one `step` at a time. All calls come from one thread."""

    def __init__(
        self,
        config: EngineConfig,
        files: ModelFiles,
        executor: Executor,
        *,
        make_backend: Callable[[ModelFiles, Ready, str], GrammarBackend] = make_backend,
    ) -> None:
        self._config = config
        self._files = files
        self._executor = executor
        self._scheduler: Scheduler
        self._loop: Loop
        self._grammars: Grammars
        self._make_backend = make_backend
        self._compiler: Compiler | None = None
        self._refused: list[Delta] = []
        self._vocab = 0

    def start(self, progress: Progress) -> Ready:
        """Loads the model and plans its memory. Raises what the worker raised."""
        ready = self._executor.start(progress)
        limits = limits_of(self._config, self._files, ready)
        self._vocab = ready.facts.vocab_size
        self._grammars = self._make_grammars(ready)
        jumps = self._config.grammar.jump_ahead and ready.verifies
        ahead = self._grammars.ahead if jumps else None
        self._scheduler = Scheduler(ready.cache, limits, guests=(self._grammars,), ahead=ahead)
        self._loop = Loop(self._scheduler, self._executor, limits.depth, self._grammars)
        return ready

    def _make_grammars(self, ready: Ready) -> Grammars:
        settings, facts = self._config.grammar, ready.facts
        name = settings.structured_outputs_backend
        self._compiler = Compiler(
            lambda: self._make_backend(self._files, ready, name), settings.grammar_cache
        )
        return Grammars(self._compiler, facts.vocab_size, facts.eos_token_ids, settings.grammar_timeout)

    def add(self, requests: Iterable[EngineRequest]) -> None:
        """Queues requests. One that is refused ends with Finish.ERROR at the next step."""
        for request in requests:
            try:
                check_ids(request, self._vocab)
                self._scheduler.add(request)
                self._grammars.open(request)
            except EngineError as error:
                self._refuse(request, str(error))
            except Exception as error:  # one bad request must not end its neighbours
                _log.exception("request %s could not be queued", request.id)
                self._refuse(request, f"internal error: {type(error).__name__}")

    def abort(self, ids: Iterable[str]) -> None:
        """Ends requests; unknown ids are ignored (they may have finished meanwhile)."""
        self._scheduler.abort(tuple(ids))

    @property
    def busy(self) -> bool:
        return bool(self._refused) or self._scheduler.busy or self._loop.in_flight > 0

    @property
    def in_flight(self) -> int:
        """Plans that wait for their result."""
        return self._loop.in_flight

    def step(self) -> list[Delta]:
        """One turn of the loop; an idle core returns at once."""
        deltas, self._refused = self._refused, []
        for id, why in self._grammars.failures().items():
            self._scheduler.fail(id, why)
        if self._scheduler.busy or self._loop.in_flight:
            deltas += self._loop.turn()
        return deltas

    def pause(self, seconds: float) -> None:
        """Waits for what only time brings: a grammar that is being compiled. Returns at once when
        nothing is, or when rows are running."""
        if not self._scheduler.stats().running:
            self._grammars.wait(seconds)

    def stats(self) -> CoreStats:
        return self._scheduler.stats()

    def call(self, name: str, args: dict[str, Any]) -> Any:
        """Rare control. NotFound for a name nobody here knows."""
        own: dict[str, Callable[[], Any]] = {
            "stats": self.stats,
            "reset_prefix_cache": self._scheduler.reset_prefix_cache,
        }
        if name in own:
            return own[name]()
        if self.busy and name not in _ANY_TIME:
            raise Fault(f"{name} needs an idle engine")
        answers = self._executor.call(name, args)
        if not answers:
            raise NotFound(f"unknown call {name!r}", hint=f"known: {', '.join(own)}", field="name")
        return answers[0]

    def close(self) -> None:
        if self._compiler is not None:
            self._compiler.close()
        self._executor.close()

    def _refuse(self, request: EngineRequest, why: str) -> None:
        self._refused.append(Delta(id=request.id, finish=Finish.ERROR, error=why))


def limits_of(config: EngineConfig, files: ModelFiles, ready: Ready) -> Limits:
    """The scheduler's limits: what the worker found, then what the settings say."""
    schedule = config.schedule
    return Limits(
        max_rows=ready.cache.max_rows,
        budget=ready.budget or schedule.max_num_batched_tokens or _BUDGET,
        max_model_len=ready.max_model_len,
        depth=2 if schedule.async_scheduling else 1,
        chunk_cap=schedule.long_prefill_token_threshold,
        policy=schedule.scheduling_policy,
        prefix_caching=config.cache.enable_prefix_caching,
        model_key=files.identity or files.name,
    )
