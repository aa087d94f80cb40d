"""What the scheduler remembers of a request, and the limits it keeps to. Holds values, decides nothing."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from octavo.core.events import Timeline
from octavo.core.request import EngineRequest, Finish, Sampling
from octavo.scheduler.hashing import Chain

_PATIENCE = 1 << 33  # more than any two priorities lie apart


class Limits(NamedTuple):
    """Sizes the scheduler keeps to."""

    max_rows: int  # requests computed at once
    budget: int  # positions computed in one step
    max_model_len: int
    depth: int = 2  # plans in flight
    drafts: int = 0  # unverified tokens per row and step (nodes of the tree, if it is one)
    chunk_cap: int = 0  # most prompt positions of one row in a step; 0: the budget
    policy: str = "fcfs"  # or "priority"
    prefix_caching: bool = True
    model_key: str = ""  # names the weights in prefix keys
    stages: int = 1  # of the pipeline; above 1 a row waits for its token and plans share out the rows
    proposer_kv: bool = False  # the proposer keeps KV: the last matched block is computed again


class Table:
    """Pages of one row in one cache group, by block number; 0 where none is held."""

    __slots__ = ("fixed", "ids", "low", "published")

    def __init__(self) -> None:
        self.fixed: list[int] = []  # pages that do not grow with the length
        self.ids: list[int] = []
        self.low = 0  # blocks below are given back
        self.published = 0  # blocks below are offered for reuse


@dataclass(slots=True, eq=False)
class RequestState:
    """The one mutable object of a request; written by the scheduler alone."""

    request: EngineRequest
    id: str
    tokens: array[int]  # prompt and known output; only ever appended to
    prompt: int
    limit: int  # most tokens, prompt included
    sampling: Sampling | None  # with max_tokens cut to the limit
    samples: bool  # False: scored or pooled only
    guided: bool  # samples under a grammar
    order: tuple[int, float, int]  # place in every line: (priority, arrival, sequence)
    queued_at: float

    slot: int = -1
    queued: bool = False
    tables: list[Table] = field(default_factory=list)
    chains: dict[int, Chain] = field(default_factory=dict)  # by block size
    computed: int = 0  # positions with KV, everything in flight counted as accepted
    settled: int = 0  # positions with KV for certain: results have said so
    pending: int = 0  # tokens in flight, at most
    flights: int = 0  # steps in flight
    granted: int = -1  # last plan that gave it work
    capacity: int = 0  # positions its pages can hold
    offer_at: int = 0  # the next block is complete once so many positions are certain
    tidy_at: int = 0  # pages may be given back once so many positions are settled
    drafting: bool = False  # the device has proposals for its next step
    fed: int = 0  # tokens the first stage of a pipeline knows
    scored: int = 1  # first position without prompt log-probabilities, planned ones counted
    parent: RequestState | None = None  # to be forked at its first admission
    children: list[RequestState] = field(default_factory=list)  # wait for the end of the prompt
    cached: int | None = None  # prompt tokens found in the cache when it was first admitted
    told: bool = False  # the first Delta is out
    finish: Finish | None = None
    first_token: float = 0.0
    last_token: float = 0.0
    scheduled: float = 0.0
    preemptions: int = 0

    @classmethod
    def of(
        cls, request: EngineRequest, limits: Limits, longest: int, sequence: int, now: float
    ) -> RequestState:
        """The state of a new request that may have at most `longest` tokens."""
        sampling, prompt = request.sampling, len(request.tokens)
        samples = sampling is not None and sampling.max_tokens > 0
        limit = prompt
        if sampling is not None and samples:
            limit = min(prompt + sampling.max_tokens, longest)
            if limit - prompt < sampling.max_tokens:
                sampling = msgspec.structs.replace(sampling, max_tokens=max(0, limit - prompt))
        priority = request.priority if limits.policy == "priority" else 0
        priority += _PATIENCE if request.patient else 0
        return cls(
            request=request,
            id=request.id,
            tokens=array("i", request.tokens + request.output),
            prompt=prompt,
            limit=limit,
            sampling=sampling,
            samples=samples,
            guided=samples and request.grammar is not None,
            order=(priority, request.arrived, sequence),
            queued_at=now,
            scored=prompt if request.output else 1,
        )

    @property
    def scores(self) -> bool:
        """Every position of the prompt is scored."""
        return self.sampling is not None and self.sampling.prompt_logprobs is not None

    @property
    def uncached(self) -> bool:
        """Every position has to be computed: no prefix hit, no fork."""
        return self.scores or self.request.skip_cache

    def final_timeline(self) -> Timeline:
        return Timeline(
            arrived=self.request.arrived,
            queued=self.queued_at,
            scheduled=self.scheduled,
            first_token=self.first_token,
            last_token=self.last_token,
            preemptions=self.preemptions,
        )
