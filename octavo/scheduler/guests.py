"""Who else has a say in an admission: adapters, encoders, grammars. The scheduler asks each in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from octavo.core.request import EngineRequest

# The tokens that must follow the output that results have told; empty where there is a choice.
Ahead = Callable[[EngineRequest], Sequence[int]]


class Guest(Protocol):
    """Absent from the scheduler's list when its feature is off."""

    def ready(self, request: EngineRequest) -> bool:
        """False: not yet (a grammar is compiling, no adapter slot is free). The request steps
        aside, without blocking the ones behind it, and is asked again with the next plan."""

    def admit(self, request: EngineRequest) -> None:
        """The request took a slot: charge what it uses."""

    def leave(self, request: EngineRequest) -> None:
        """The request gave its slot back (finished, aborted or preempted)."""
