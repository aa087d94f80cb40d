"""LogitsStage: one rule that edits logits before a token is drawn, and what it may look at.

A stage that nobody asks for costs nothing: it is never called. Knows no order (sampler.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from octavo.core.messages import Admission

Logits = NDArray[np.float32]
Index = NDArray[np.integer[Any]]


@dataclass(slots=True)
class Rows:
    """The rows of one batch of logits, one for each token to be sampled: [m] each.

    `position` is where the sampled token goes. Tokens before `known` are final; those in
    [known, position) are drafts under verification. Both are in `history` [slots, positions],
    so a stage sees a draft exactly as it would see an accepted token.
    """

    slot: Index
    position: Index
    known: Index
    history: NDArray[np.int32]

    def some(self, at: Index) -> Rows:
        """Only the rows `at`."""
        return Rows(self.slot[at], self.position[at], self.known[at], self.history)

    def output(self, row: int, prompt: int) -> NDArray[np.int32]:
        """What the row has generated so far, drafts included."""
        return self.history[self.slot[row], prompt : self.position[row]]


class LogitsStage(Protocol):
    """Made once for `slots` device rows; keeps state per slot."""

    def admit(self, a: Admission) -> bool:
        """Whether the request wants this stage. State is rebuilt from a.tokens, never carried over."""

    def release(self, slot: int) -> None:
        """Forgets a slot that was admitted here."""

    def apply(self, logits: Logits, rows: Rows, at: Index) -> None:
        """Edits logits[at] in place; logits [m, vocab], `at` [k] rows that want this stage."""
