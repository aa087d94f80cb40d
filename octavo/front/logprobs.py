"""Log-probabilities as generate() returns them: a mapping of each position, in a list or flat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableSequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, overload


@dataclass(frozen=True, slots=True)
class Logprob:
    """`rank` is 1 for the most likely token of the position."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


Position = Mapping[int, Logprob]


@dataclass
class FlatLogprobs(MutableSequence[Any]):
    """Many positions in a few long lists: one mapping a position costs the garbage collector more than the
    numbers are worth. Read like the list of mappings it stands for, each made anew; grows at its end only.

    Position i holds entries `start_indices[i]` up to `end_indices[i]` of the other lists (vLLM's names).
    A position without scores, as a prompt's first, is an empty mapping.
    """

    start_indices: list[int] = field(default_factory=list)
    end_indices: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ranks: list[int | None] = field(default_factory=list)
    decoded_tokens: list[str | None] = field(default_factory=list)

    @classmethod
    def of(cls, positions: Iterable[Position | None]) -> FlatLogprobs:
        made = cls()
        made.extend(positions)
        return made

    def append(self, value: Position | None) -> None:
        row = value or {}
        scores = row.values()
        self.append_fast(
            list(row),
            [score.logprob for score in scores],
            [score.rank for score in scores],
            [score.decoded_token for score in scores],
        )

    def append_fast(
        self,
        token_ids: Iterable[int],
        logprobs: Iterable[float],
        ranks: Iterable[int | None],
        decoded_tokens: Iterable[str | None],
    ) -> None:
        """A position from its columns, which are equally long."""
        entries = list(zip(token_ids, logprobs, ranks, decoded_tokens, strict=True))
        self.start_indices.append(len(self.token_ids))
        for id, logprob, rank, text in entries:
            self.token_ids.append(id)
            self.logprobs.append(logprob)
            self.ranks.append(rank)
            self.decoded_tokens.append(text)
        self.end_indices.append(len(self.token_ids))

    def extend(self, values: Iterable[Position | None]) -> None:
        for position in list(values) if values is self else values:
            self.append(position)

    def __len__(self) -> int:
        return len(self.start_indices)

    @overload
    def __getitem__(self, index: int) -> dict[int, Logprob]: ...

    @overload
    def __getitem__(self, index: slice) -> FlatLogprobs: ...

    def __getitem__(self, index: int | slice) -> dict[int, Logprob] | FlatLogprobs:
        if isinstance(index, slice):
            return FlatLogprobs.of(self[at] for at in range(*index.indices(len(self))))
        entries = range(self.start_indices[index], self.end_indices[index])
        return {
            self.token_ids[at]: Logprob(self.logprobs[at], self.ranks[at], self.decoded_tokens[at])
            for at in entries
        }

    def __iter__(self) -> Iterator[dict[int, Logprob]]:
        return map(self.__getitem__, range(len(self)))

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise TypeError("log-probabilities in a FlatLogprobs cannot be set")

    def __delitem__(self, index: Any) -> NoReturn:
        raise TypeError("log-probabilities in a FlatLogprobs cannot be deleted")

    def insert(self, index: int, value: Any) -> NoReturn:
        raise TypeError("log-probabilities cannot be inserted into a FlatLogprobs")


# of each sampled token, which comes first in its mapping
SampleLogprobs = list[dict[int, Logprob]] | FlatLogprobs
# of each token of the prompt; None, or empty, for the first, which nothing precedes
PromptLogprobs = list[dict[int, Logprob] | None] | FlatLogprobs


def gathered(positions: Iterable[dict[int, Logprob]], *, flat: bool) -> SampleLogprobs:
    return FlatLogprobs.of(positions) if flat else list(positions)
