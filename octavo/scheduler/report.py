"""The scheduler's bookkeeping for others: counters, and what a result brings beside tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from octavo.core.events import CoreStats, StepStats
from octavo.core.messages import StepResult


@dataclass(slots=True)
class Counters:
    """Grow from the start of the process; the names are those of CoreStats."""

    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    copies: int = 0
    forks: int = 0
    steps: int = 0
    overlapped: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    host_s: float = 0.0
    forward_s: float = 0.0
    sample_s: float = 0.0
    device_s: float = 0.0
    idle_s: float = 0.0
    last_step: float = 0.0
    drafts: int = 0
    accepted: int = 0
    masked: int = 0
    jumped: int = 0

    def took(self, stats: StepStats, began: float, now: float, awaited: bool) -> None:
        """A result was applied between those times. `awaited`: somebody waited for its step before it was
        planned; otherwise the device was not idle before it, it was not asked."""
        self.host_s += now - began
        self.last_step = now
        self.forward_s += stats.forward_s
        self.sample_s += stats.sample_s
        self.device_s += stats.device_s
        self.idle_s += stats.idle_s if awaited else 0.0
        self.drafts += stats.drafts
        self.accepted += stats.accepted

    def snapshot(self, waiting: int, running: int, total: int, used: int) -> CoreStats:
        return CoreStats(
            waiting=waiting,
            running=running,
            blocks_total=total,
            blocks_used=used,
            **{name: getattr(self, name) for name in self.__slots__},
        )


class Extras:
    """The rare parts of a result, by row and slot, as arguments of a Delta."""

    def __init__(self, result: StepResult) -> None:
        self._logprobs = dict(result.logprobs)
        self._prompt = {slot: positions for slot, _, positions in result.prompt_logprobs}
        self._vectors = dict(result.vectors)

    def of(self, row: int, slot: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if row in self._logprobs:
            found["logprobs"] = self._logprobs[row]
        if slot in self._prompt:
            found["prompt_logprobs"] = self._prompt[slot]
        if slot in self._vectors:
            found["vector"] = self._vectors[slot]
        return found
