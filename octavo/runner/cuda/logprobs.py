"""Log-probabilities of rows that ask for them: scored on the device, read when the step's result is.

A step in which nobody asks launches nothing here. Offsets of rows are taken from the device: a row
that ended since the plan was made is not there any more. Rows whose scores find no memory, not even
alone, are added to `lost`: an answer without what was asked for would be a wrong one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from octavo.core.messages import Admission
from octavo.core.request import PositionLogprobs
from octavo.nn.protocols import Model
from octavo.runner.cuda.rows import Rows
from octavo.runner.cuda.shortage import in_pieces
from octavo.runner.transfer import positions
from octavo.sampling.device.logprobs import score
from octavo.sampling.logprobs import Scores, Wish

_SLICE = 1 << 25  # logits elements projected at once for prompt log-probabilities
Answer = dict[str, Any]
Sent = tuple[Tensor, ...]  # the fields of Scores, readable once the step is done
Read = Callable[[np.ndarray], Answer]


class _Asked(NamedTuple):
    """Rows of the step that have the same `wish` for what they sample, and their raw logits."""

    rows: list[int]
    wish: Wish
    logits: Tensor


class Logprobs:
    def __init__(self, model: Model, device: torch.device) -> None:
        self._model, self._device = model, device
        self._sampled: dict[int, Wish] = {}
        self._prompt: dict[int, tuple[int, np.ndarray]] = {}  # slot -> alternatives, prompt

    def admit(self, a: Admission) -> None:
        if a.sampling is None:
            return
        if a.sampling.logprobs is not None:
            self._sampled[a.slot] = Wish(a.sampling.logprobs, a.sampling.logprob_token_ids)
        if a.sampling.prompt_logprobs is not None:
            self._prompt[a.slot] = a.sampling.prompt_logprobs, np.array(a.tokens[: a.prompt], np.int64)

    def release(self, slot: int) -> None:
        self._sampled.pop(slot, None)
        self._prompt.pop(slot, None)

    def wants_prompt(self, step: Rows) -> bool:
        """Some row's prompt is scored in this step."""
        return bool(self._prompt) and any(True for _ in self._scored(step))

    def scored_rows(self, step: Rows) -> set[int]:
        """Those whose prompt is scored in this step."""
        return {row for row, *_ in self._scored(step)}

    def before(self, step: Rows, logits: Tensor, lost: set[int]) -> list[_Asked]:
        """Keeps raw logits [rows, vocab] of those who ask, before the stages edit them."""
        if not self._sampled:
            return []
        asked: dict[Wish, list[int]] = {}
        for row, slot in enumerate(map(int, step.slot)):
            if slot in self._sampled and step.logits[row]:
                asked.setdefault(self._sampled[slot], []).append(row)
        kept = []
        for wish, rows in asked.items():
            for a, b, raw in in_pieces(0, len(rows), partial(self._raw, logits, rows)):
                if raw is None:
                    lost.update(rows[a:b])
                else:
                    kept.append(_Asked(rows[a:b], wish, raw))
        return kept

    def _raw(self, logits: Tensor, rows: list[int], a: int, b: int) -> Tensor:
        return logits.index_select(0, self._index(rows[a:b]))

    def after(
        self,
        step: Rows,
        asked: list[_Asked],
        drawn: Tensor,
        hidden: Tensor | None,
        row_start: Tensor,
        lost: set[int],
    ) -> Read:
        """Scores tokens `drawn` [rows]; the result reads the scores once the step is done."""
        sampled = [scored for one in asked for scored in self._score_sampled(one, drawn, lost)]
        prompts = [] if hidden is None else list(self._score_prompts(step, hidden, row_start, lost))
        if not sampled and not prompts:
            return _nothing

        def read(host: np.ndarray) -> Answer:
            answer: Answer = {}
            places = step.order if step.order is not None else np.arange(len(step.slot))
            found = [
                (int(places[row]), (entry,))
                for rows, scores in sampled
                for row, entry in zip(rows, positions(_host(scores)), strict=True)
                if host[1, row]
            ]
            if found:
                answer["logprobs"] = tuple(sorted(found))
            if prompts:
                answer["prompt_logprobs"] = tuple(
                    (slot, first, _joined(parts)) for slot, first, parts in prompts
                )
            return answer

        return read

    def _scored(self, step: Rows) -> Iterator[tuple[int, int, int, int]]:
        """(row, slot, first, end): positions [first, end) of a prompt score the tokens after them."""
        for row in map(int, np.flatnonzero((step.logits > 0) & (step.count > 0))):
            slot = int(step.slot[row])
            if slot in self._prompt:
                start, end = int(step.start[row]), int(step.start[row] + step.count[row])
                first = max(start, end - int(step.logits[row]))
                last = min(end, len(self._prompt[slot][1]) - 1)
                if first < last:
                    yield row, slot, first, last

    def _score_sampled(self, one: _Asked, drawn: Tensor, lost: set[int]) -> Iterator[tuple[list[int], Sent]]:
        for a, b, scores in in_pieces(0, len(one.rows), partial(self._send_sampled, one, drawn)):
            if scores is None:
                lost.update(one.rows[a:b])
            else:
                yield one.rows[a:b], scores

    def _score_prompts(
        self, step: Rows, hidden: Tensor, row_start: Tensor, lost: set[int]
    ) -> Iterator[tuple[int, int, list[Sent]]]:
        piece = max(1, _SLICE // self._model.vocab_size)
        for row, slot, first, end in self._scored(step):
            # hidden states of the row's first position would lie here
            zero = row_start[row] - int(step.start[row])
            launch = partial(self._send_prompt, slot, hidden, zero)
            starts = range(first, end, piece)
            found = [s for at in starts for *_, s in in_pieces(at, min(at + piece, end), launch)]
            parts = [scores for scores in found if scores is not None]
            if len(parts) < len(found):
                lost.add(row)
            else:
                yield slot, first + 1, parts

    def _send_sampled(self, one: _Asked, drawn: Tensor, a: int, b: int) -> Sent:
        return self._send(one.logits[a:b], drawn.index_select(0, self._index(one.rows[a:b])), one.wish)

    def _send_prompt(self, slot: int, hidden: Tensor, zero: Tensor, a: int, b: int) -> Sent:
        """Positions [a, b) of the slot's prompt score the tokens after them."""
        alternatives, prompt = self._prompt[slot]
        index = zero + torch.arange(a, b, device=self._device)
        logits = self._model.logits(hidden.index_select(0, index))
        return self._send(logits, self._index(prompt[a + 1 : b + 1]), Wish(alternatives))

    def _send(self, logits: Tensor, tokens: Tensor, wish: Wish) -> Sent:
        """Scores on their way to the host."""
        named = self._index(wish.named) if wish.named else None
        scored = score(logits, tokens, wish.alternatives, named)
        return tuple(part.to("cpu", non_blocking=True) for part in (tokens, *scored) if part is not None)

    def _index(self, values: Any) -> Tensor:
        index = torch.as_tensor(np.asarray(values, np.int64))
        return (
            index.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else index
        )


def _host(sent: Sent) -> Scores:
    return Scores(*(part.numpy() for part in sent))


def _joined(parts: list[Sent]) -> tuple[PositionLogprobs, ...]:
    return tuple(entry for part in parts for entry in positions(_host(part)))


def _nothing(host: np.ndarray) -> Answer:
    return {}
