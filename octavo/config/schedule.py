"""How steps are filled."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.config.option import option


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    max_num_seqs: int | None = option(
        None, "most requests computed at once; none: by device", low=1, high=65536
    )
    max_num_batched_tokens: int | None = option(
        None,
        "token budget of one step (prefill chunks and decodes together); none: by device",
        low=1,
        kind="size",
    )
    enable_chunked_prefill: bool = option(True, "accepted for compatibility; long prompts are always chunked")
    long_prefill_token_threshold: int = option(
        0, "most prompt tokens one request gets in a step; 0: the budget", low=0
    )
    scheduling_policy: str = option("fcfs", "order of waiting requests", choices=("fcfs", "priority"))
    async_scheduling: bool = option(True, "plan the next step while one is running")
    max_queue: int = option(
        2048, "most requests waiting or running; more are answered with 503", low=1, flag="max-queue"
    )
