"""Feature: a guest of the runner, called at fixed points of a step and absent when off.

Hosts contain no `if feature`; a guest that no row asks for returns at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from octavo.core.messages import Admission
from octavo.core.request import PositionLogprobs
from octavo.runner.commit import Outcome
from octavo.runner.inputs import Step
from octavo.runner.transfer import positions, to_host
from octavo.sampling.logprobs import Wish, score

Answer = dict[str, Any]  # fields of StepResult beyond the tokens
_SLICE = 1 << 23  # logits elements projected at once for prompt log-probabilities
_SLICE_ROWS = 512


class Feature:
    """The hooks, all optional."""

    def admit(self, a: Admission) -> None:
        """A request takes a slot."""

    def release(self, slot: int) -> None:
        """It leaves."""

    def before(self, step: Step) -> None:
        """Inputs are built, the model has not run."""

    def scored(self, step: Step) -> None:
        """Logits are there; no stage has touched them."""

    def after(self, step: Step, outcome: Outcome, answer: Answer) -> None:
        """Tokens are committed; adds to the answer."""


class SampledLogprobs(Feature):
    """`logprobs`: raw log-probabilities of sampled tokens and their alternatives."""

    def __init__(self) -> None:
        self._asked: dict[int, Wish] = {}  # by slot
        self._raw: dict[int, np.ndarray] = {}  # row -> logits [drafts + 1, vocab]

    def admit(self, a: Admission) -> None:
        if a.sampling is not None and a.sampling.logprobs is not None:
            self._asked[a.slot] = Wish(a.sampling.logprobs, a.sampling.logprob_token_ids)

    def release(self, slot: int) -> None:
        self._asked.pop(slot, None)

    def scored(self, step: Step) -> None:
        self._raw.clear()
        if not self._asked or step.scores is None:
            return
        ends = np.cumsum(step.drafts[step.sampled] + 1)
        for row, end in zip(step.sampled, ends, strict=True):
            if int(step.slot[row]) in self._asked:
                self._raw[int(row)] = step.scores[end - 1 - step.drafts[row] : end].copy()

    def after(self, step: Step, outcome: Outcome, answer: Answer) -> None:
        found = []
        for wish in {self._asked[int(step.slot[row])] for row in self._raw}:
            rows = [row for row in self._raw if self._asked[int(step.slot[row])] == wish]
            counts = outcome.counts[rows]
            logits = np.concatenate([self._raw[row][:n] for row, n in zip(rows, counts, strict=True)])
            tokens = np.concatenate([outcome.tokens[row, :n] for row, n in zip(rows, counts, strict=True)])
            entries = positions(score(logits, tokens, *wish))
            for row, end, n in zip(rows, np.cumsum(counts), counts, strict=True):
                found.append((row, entries[end - n : end]))
        if found:
            answer["logprobs"] = tuple(sorted(found, key=lambda entry: entry[0]))


class PromptLogprobs(Feature):
    """`prompt_logprobs`: every prompt token scored by the position before it, in slices."""

    def __init__(self, project: Callable[[Tensor], Tensor], vocab: int) -> None:
        self._project = project
        self._slice = max(1, min(_SLICE_ROWS, _SLICE // vocab))
        self._asked: dict[int, tuple[int, np.ndarray]] = {}  # slot -> alternatives, prompt

    def admit(self, a: Admission) -> None:
        if a.sampling is not None and a.sampling.prompt_logprobs is not None:
            self._asked[a.slot] = a.sampling.prompt_logprobs, np.array(a.tokens[: a.prompt], np.int64)

    def release(self, slot: int) -> None:
        self._asked.pop(slot, None)

    def after(self, step: Step, outcome: Outcome, answer: Answer) -> None:
        if not self._asked or step.hidden is None:
            return
        found = []
        for row in np.flatnonzero((step.logits > 0) & (step.count > 0)):
            slot = int(step.slot[row])
            if slot not in self._asked:
                continue
            alternatives, prompt = self._asked[slot]
            end = int(step.start[row] + step.count[row])
            first = max(int(step.start[row]), end - int(step.logits[row]))
            offset = int(step.first[row] - step.start[row])
            last = min(end, len(prompt) - 1)
            if first < last:
                entries = self._score(
                    step.hidden[offset + first : offset + last], prompt[first + 1 : last + 1], alternatives
                )
                found.append((slot, first + 1, entries))
        if found:
            answer["prompt_logprobs"] = tuple(found)

    def _score(self, hidden: Tensor, tokens: np.ndarray, alternatives: int) -> tuple[PositionLogprobs, ...]:
        entries: list[PositionLogprobs] = []
        for at in range(0, len(tokens), self._slice):
            part = slice(at, at + self._slice)
            entries += positions(score(to_host(self._project(hidden[part])), tokens[part], alternatives))
        return tuple(entries)
