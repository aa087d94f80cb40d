"""Forward: all device inputs of one step, made by the runner and handed down explicitly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class HostBounds(NamedTuple):
    """What the host knows without asking the device: upper bounds, for grids and splits."""

    rows: int
    tokens: int
    max_query: int  # longest row of this step
    max_context: int  # longest context after this step
    shared: int = 0  # leading pages of group 0 that all rows have in common; 0 where nobody looked
    fresh: bool = False  # some row of several tokens begins with this step; False where nobody looked
    later: bool = True  # some row of several tokens began before it; True where nobody looked


class HostRows(NamedTuple):
    """A step's rows as the host knows them, arrays [rows]. Exact for rows of several tokens; one that
    decodes may have ended on the device, and then it has no token."""

    slots: NDArray[np.integer[Any]]
    starts: NDArray[np.integer[Any]]  # context before this step
    counts: NDArray[np.integer[Any]]
    tables: tuple[NDArray[np.int32], ...]  # per group [slots, pages]: physical pages


@dataclass(slots=True)
class GroupInputs:
    """The view one cache group has of the step.

    With `Forward.owners` the tables are those of all slots, and row r's is number owners[r].
    """

    lengths: Tensor  # [rows] int32: context length after this step's positions
    tables: Tensor  # [rows, pages] int32: physical page of each logical page, 0 where none
    slots: Tensor  # [tokens] int64: page * tokens_per_page + offset, where each token's KV goes


@dataclass(slots=True)
class Forward:
    """Device inputs of one step. Rows are concatenated; nothing is padded on a CPU, on a GPU all of it
    may be: padding has no tokens (row_start stands still) or writes to page 0."""

    tokens: Tensor  # [n] int64
    positions: Tensor  # [n] int64, absolute
    row_start: Tensor  # [rows + 1] int32: offsets of the rows in `tokens`
    logits_at: Tensor  # [m] int64: positions of `tokens` whose hidden state is projected
    groups: tuple[GroupInputs, ...]
    caches: dict[str, Tensor]  # layer name -> paged cache, shaped by the backend's layout
    bounds: HostBounds
    meta: dict[int, Any] = field(default_factory=dict)  # per group, from AttentionBackend.plan
    adapters: Tensor | None = None  # [rows] int32 adapter slot
    owners: Tensor | None = None  # [rows] int32: the slot of each row; None: tables are row by row
    shared: Tensor | None = None  # [1] int32: as bounds.shared, the truth on the device
    host: HostRows | None = None  # None where nobody looked, and in what is captured
    last: Tensor | None = None  # [m] int64: tokens that go beyond the last attention; None: all
