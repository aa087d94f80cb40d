"""What metrics and traces are made from. All times are monotonic seconds of this host."""

from __future__ import annotations

import msgspec


class Timeline(msgspec.Struct, frozen=True, omit_defaults=True):
    """The stations of one request; 0.0 where it never got there."""

    arrived: float = 0.0  # at the front
    queued: float = 0.0  # at the scheduler
    scheduled: float = 0.0  # first time in a plan
    first_token: float = 0.0
    last_token: float = 0.0
    preemptions: int = 0


class StepStats(msgspec.Struct, frozen=True, omit_defaults=True):
    """One executed step, seen by the worker. Seconds."""

    tokens: int = 0
    rows: int = 0
    forward_s: float = 0.0  # of the host: on a CPU the work itself, on a GPU its launches
    sample_s: float = 0.0
    device_s: float = 0.0  # of a GPU, from the step's first launch to its last
    idle_s: float = 0.0  # of a GPU, since the step before
    drafts: int = 0  # drafts proposed for verification in this step
    accepted: int = 0


class CoreStats(msgspec.Struct, frozen=True, omit_defaults=True):
    """A snapshot of the scheduler; counters grow from the start of the process."""

    waiting: int = 0
    running: int = 0
    blocks_total: int = 0
    blocks_used: int = 0  # held by requests; cached but free blocks are not used
    prefix_queries: int = 0  # prompt tokens looked up
    prefix_hits: int = 0  # of them found
    preemptions: int = 0
    copies: int = 0
    forks: int = 0  # rows that began from another row's prompt
    steps: int = 0
    overlapped: int = 0  # steps submitted while another was in flight
    prompt_tokens: int = 0  # computed, without hits
    generated_tokens: int = 0
    host_s: float = 0.0  # planning and applying
    forward_s: float = 0.0
    sample_s: float = 0.0
    device_s: float = 0.0
    idle_s: float = 0.0  # while rows were running
    last_step: float = 0.0  # monotonic time a step finished
    drafts: int = 0
    accepted: int = 0
    masked: int = 0  # rows of steps that were sampled under a grammar
    jumped: int = 0  # tokens a grammar left no choice about, computed without a step of their own
