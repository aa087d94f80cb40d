"""The two messages between scheduler and device, and the one late addendum (grammar masks).

Frozen and tensor-free, so that every transport can carry them. Tables that are read once a
step are packed int32 (little-endian) instead of tuples: at 1,024 rows tuples alone would
cost more than a small model's step.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from octavo.core.events import StepStats
from octavo.core.request import MediaSpan, Pooling, PositionLogprobs, Sampling

WORK_COLUMNS = 5
NULL_BLOCK = 0  # id 0 is never handed out; it stands for "no page"


class Work(NamedTuple):
    """One row of a step: compute positions [start, start + count) of a slot.

    `start` is the host's upper bound; the device knows the truth. `drafts` of the positions
    are unverified. `logits` trailing positions are projected: 0 chunk or pooling, 1 decode,
    k + 1 verify, more for prompt log-probabilities.
    """

    slot: int
    start: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls on a Work
    drafts: int
    logits: int


def pack_work(rows: Iterable[Work]) -> bytes:
    """int32 [rows, 5], the wire form of Work."""
    table = array("i")
    for row in rows:
        table.extend(row)
    return table.tobytes()


def unpack_work(table: bytes) -> Iterator[Work]:
    """The typed view of StepPlan.work."""
    flat = array("i", table)
    for i in range(0, len(flat), WORK_COLUMNS):
        yield Work(*flat[i : i + WORK_COLUMNS])


class Admission(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request takes a slot.

    `tokens` are prompt and known output; the first `prompt` of them are the prompt, so every
    state that depends on the output alone is rebuilt, never saved. `start` positions already
    have KV (prefix hits). `fork` names the slot whose device state is copied (n > 1).
    """

    slot: int
    tokens: tuple[int, ...]
    prompt: int
    start: int
    seed: int
    sampling: Sampling | None = None
    pooling: Pooling | None = None
    grammar: bool = False
    adapter_slot: int = 0  # 0: none
    spans: tuple[MediaSpan, ...] = ()
    rope_delta: int = 0
    fork: int | None = None


class Copy(NamedTuple):
    """Move one page. cow and in happen before the step's forward, out after the step before."""

    id: int
    kind: str  # "cow" | "out" | "in"
    group: int
    src: int
    dst: int


class Lockstep(NamedTuple):
    """What expert-parallel ranks agreed on before submitting."""

    bucket: int
    graph: bool


class StepPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything a worker needs for one step, in the order it is carried out:
    release, admit, feed, blocks, copies, work."""

    id: int
    release: tuple[int, ...] = ()
    admit: tuple[Admission, ...] = ()
    feed: tuple[tuple[int, int, tuple[int, ...]], ...] = ()  # (slot, position, tokens)
    blocks: tuple[tuple[int, int, int, tuple[int, ...]], ...] = ()  # (slot, group, first, ids)
    work: bytes = b""  # int32 [rows, 5]
    same: bool = False  # the last table with every start += count; `work` is empty then
    copies: tuple[Copy, ...] = ()
    adapters: tuple[tuple[int, str], ...] = ()  # (adapter slot, id)
    encode: tuple[bytes, ...] = ()  # media hashes
    forget: tuple[bytes, ...] = ()
    masked: bool = False  # launch F only; S follows with the masks
    lockstep: Lockstep | None = None


class StepMasks(msgspec.Struct, frozen=True, kw_only=True):
    """Allowed tokens of a masked plan. `bits` holds one little-endian bitmap of
    ceil(vocab / 32) int32 words for each of `rows`."""

    plan_id: int
    rows: tuple[tuple[int, int], ...]  # (slot, position within the row: 0..drafts)
    bits: bytes


# StepResult.finished, one byte a row. NO_MEMORY: the device had none for this row, which is out of step now
RUNNING, EOS, STOP, LENGTH, NO_MEMORY = range(5)


class StepResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a step brought, row by row in the plan's order; sent by the sampling rank.

    `tokens` is int32 [rows, width] where width = 1 + the largest `drafts` of the plan, of
    which `counts` (int32 [rows]) are valid: 0 for a chunk, a pooled or a finished row.
    """

    plan_id: int
    tokens: bytes = b""
    counts: bytes = b""
    finished: bytes = b""
    drafts: tuple[tuple[int, tuple[int, ...]], ...] = ()  # (slot, proposals), grammar rows only
    logprobs: tuple[tuple[int, tuple[PositionLogprobs, ...]], ...] = ()  # (row, positions)
    prompt_logprobs: tuple[tuple[int, int, tuple[PositionLogprobs, ...]], ...] = ()
    # ^ (slot, first position scored, positions): position p is scored by the logits of p - 1
    vectors: tuple[tuple[int, bytes], ...] = ()  # (slot, float32 little-endian)
    copied: tuple[int, ...] = ()
    loaded: tuple[int, ...] = ()  # adapter slots
    stats: StepStats = StepStats()
