"""Beam search, as a machine of feed -> beams to be extended. Knows no engine and no text.

Each step every open beam is a request for one token with its alternatives; what it computed for its
beginning is in the prefix cache. Beams are compared by the sum of the model's own log-probabilities over
their length, the prompt's included, to the power of `length_penalty` (vLLM's rule).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from octavo.core.errors import Unsupported
from octavo.front import checks
from octavo.front.logprobs import Logprob

MOST_WIDTH = 1024
Row = Mapping[int, Logprob]


class BeamSearchParams(msgspec.Struct, kw_only=True, repr_omit_defaults=True):
    """vLLM's names. `temperature` is accepted and changes nothing: beams are scored, not drawn.
    UserError names the field and its range."""

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0
    include_stop_str_in_output: bool = False
    structured_outputs: Any = None

    def __post_init__(self) -> None:
        self.beam_width = checks.integer("beam_width", self.beam_width, 1, MOST_WIDTH)
        self.max_tokens = checks.integer("max_tokens", self.max_tokens, 1, checks.INT32)
        self.temperature = checks.number("temperature", self.temperature, 0.0, 2.0)
        self.length_penalty = checks.number("length_penalty", self.length_penalty, -10.0, 10.0)
        checks.switch("ignore_eos", self.ignore_eos)
        checks.switch("include_stop_str_in_output", self.include_stop_str_in_output)
        if self.structured_outputs is not None:
            raise Unsupported(
                "structured_outputs is not available in a beam search",
                hint="use generate with structured_outputs",
                field="structured_outputs",
            )


class Beam(NamedTuple):
    """One hypothesis: what follows the prompt. `finish` is "stop" after an end-of-text token, which is
    then its last one, "length" when the search ended before, None while it goes on."""

    tokens: tuple[int, ...] = ()
    logprob: float = 0.0
    rows: tuple[dict[int, Logprob], ...] = ()  # of each token, itself first
    finish: str | None = None


class BeamSearch:
    """The search over one prompt. `open` are the beams to be extended; give `feed` the alternatives
    to the next token of each, twice as many as the beam is wide (some may end it), until `done`."""

    def __init__(self, params: BeamSearchParams, prompt: int, eos: Sequence[int]) -> None:
        self._params = params
        self._prompt = prompt
        self._eos = frozenset() if params.ignore_eos else frozenset(eos)
        self._ended: list[Beam] = []
        self.open: list[Beam] = [Beam()]

    @property
    def done(self) -> bool:
        return not self.open

    def feed(self, rows: Sequence[Row]) -> None:
        """The next token's alternatives of each open beam, in their order."""
        grown: list[Beam] = []
        for beam, row in zip(self.open, rows, strict=True):
            for token, value in row.items():
                said = _first(token, row)
                one = Beam((*beam.tokens, token), beam.logprob + value.logprob, (*beam.rows, said))
                if token in self._eos:
                    self._ended.append(one._replace(finish="stop"))
                else:
                    grown.append(one)
        width = self._params.beam_width
        self._ended = sorted(self._ended, key=self.score, reverse=True)[:width]
        self.open = sorted(grown, key=self.score, reverse=True)[:width]
        if self.open and len(self.open[0].tokens) >= self._params.max_tokens:
            self._ended += [beam._replace(finish="length") for beam in self.open]
            self.open = []
        elif self._decided():
            self.open = []

    def best(self) -> list[Beam]:
        """The best ones, the best of all first; so many as the beam is wide, where there are."""
        return sorted(self._ended, key=self.score, reverse=True)[: self._params.beam_width]

    def score(self, beam: Beam) -> float:
        """What beams are compared by: an end-of-text token counts, but not in the length."""
        length = self._prompt + len(beam.tokens) - (beam.tokens[-1] in self._eos)
        return float(beam.logprob / max(length, 1) ** self._params.length_penalty)

    def _decided(self) -> bool:
        """Whether nothing that is open can still be among the best: sums only fall, and the length that
        flatters a sum most is one end or the other."""
        if len(self._ended) < self._params.beam_width:
            return False
        worst = min(self.score(beam) for beam in self._ended)
        longest = self._prompt + self._params.max_tokens
        penalty = self._params.length_penalty
        return all(
            max(beam.logprob / length**penalty for length in (self._prompt + len(beam.tokens), longest))
            <= worst
            for beam in self.open
        )


def _first(token: int, row: Row) -> dict[int, Logprob]:
    """The token that was taken comes first, as where tokens are drawn."""
    return {token: row[token], **row}
