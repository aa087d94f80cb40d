"""InlineClient: the engine in the caller's own process, for `LLM` on one device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from octavo.config.engine import EngineConfig
from octavo.core.events import CoreStats
from octavo.core.facts import ModelFiles
from octavo.core.request import Delta, EngineRequest
from octavo.core.runner import Progress
from octavo.engine.core import EngineCore
from octavo.engine.place import make_executor
from octavo.executor.executor import Executor

_PAUSE = 0.05  # seconds; callers that step in a loop do not spin


class InlineClient:
    """Synchronous: the caller submits, steps until it has what it wants, and closes.

    Loading happens in the constructor, which raises the worker's typed errors as they are.
    """

    def __init__(
        self,
        config: EngineConfig,
        files: ModelFiles,
        *,
        progress: Progress = lambda stage, share: None,
        executor: Executor | None = None,
    ) -> None:
        self._core = EngineCore(config, files, executor or make_executor(config, files))
        try:
            self.ready = self._core.start(progress)
        except BaseException:
            self._core.close()
            raise

    def submit(self, requests: Iterable[EngineRequest]) -> None:
        self._core.add(requests)

    def abort(self, ids: Iterable[str]) -> None:
        self._core.abort(ids)

    def step(self) -> list[Delta]:
        """News of one turn; may be empty while a prompt is still being computed."""
        deltas = self._core.step()
        if not deltas and not self._core.in_flight:
            self._core.pause(_PAUSE)
        return deltas

    @property
    def busy(self) -> bool:
        return self._core.busy

    def stats(self) -> CoreStats:
        return self._core.stats()

    def call(self, name: str, **args: Any) -> Any:
        return self._core.call(name, args)

    def close(self) -> None:
        self._core.close()
