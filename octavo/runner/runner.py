"""Runner: a worker as the executor sees it (core/runner.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from octavo.config.engine import EngineConfig
from octavo.core.errors import NotFound
from octavo.core.facts import ModelFiles, Ready
from octavo.core.messages import StepMasks, StepPlan
from octavo.core.runner import Pending, Progress
from octavo.runner.profile import Profiler
from octavo.runner.start import Steps, start


class Runner:
    """Owns the device from `start` to `close`; every call comes from one thread."""

    def __init__(self, config: EngineConfig, files: ModelFiles) -> None:
        self._config = config
        self._files = files
        self._device: Steps | None = None
        self._ready: Ready | None = None
        self._profiler = Profiler()

    def start(self, progress: Progress) -> Ready:
        """Loads the model. UserError, with field and remedy, where settings, files or memory forbid it."""
        self._device, self._ready = start(self._config, self._files, progress)
        return self._ready

    def forward(self, plan: StepPlan) -> None:
        self._started().forward(plan)

    def sample(self, masks: StepMasks | None) -> Pending:
        return self._started().sample(masks)

    def call(self, name: str, args: dict[str, Any]) -> Any:
        """Rare control. NotFound for a name that is not known here."""
        calls: dict[str, Callable[..., Any]] = {
            "memory": self._memory,
            "start_profile": self._profiler.start,
            "stop_profile": self._profiler.stop,
        }
        if name not in calls:
            raise NotFound(f"unknown call {name!r}", hint=f"known: {', '.join(calls)}", field="name")
        return calls[name](**args)

    def close(self) -> None:
        """Gives the device's memory back."""
        if self._device is not None:
            self._device.close()
        self._device = None

    def _memory(self) -> list[tuple[str, int, str]]:
        """The memory plan: (name, bytes, note)."""
        assert self._ready is not None, "start comes first"
        return [(row.name, row.nbytes, row.note) for row in self._ready.memory]

    def _started(self) -> Steps:
        assert self._device is not None, "start comes first"
        return self._device
