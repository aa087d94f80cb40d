"""Measured or read once, then constant."""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class TensorInfo(NamedTuple):
    """A tensor in a checkpoint. `dtype` is a safetensors name ("F32", "BF16") or a GGUF type."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """The device and what it can do. Bytes."""

    kind: str  # "cpu" | "cuda"
    name: str
    cores: int  # that this process may use (affinity and cgroup quota)
    memory_total: int  # of the device; on a CPU the smaller of RAM and cgroup limit
    memory_free: int
    memory_held: int = 0  # of the device, by what this process computed with before
    features: tuple[str, ...] = ()  # "avx2", "avx512_bf16", "amx_bf16", ...
    devices: int = 1
    torch: str = ""


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the house needs to know of a model without building it."""

    architecture: str
    vocab_size: int  # rows of the output head
    max_position: int  # longest context the checkpoint was made for
    num_layers: int
    num_parameters: int = 0
    dtype: str = "bfloat16"  # of the checkpoint
    quantization: str | None = None
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    sliding_window: int | None = None
    atomic: bool = False  # never chunked, never cached (non-causal models)


class CacheGroup(NamedTuple):
    """Layers that share one way of keeping state. All groups draw equal-byte pages.

    full: every position stays. window: only the last `window` positions are needed.
    state: a fixed-size recurrent state, snapshot every `tokens_per_page` positions.
    cross: fixed size, keyed by media hash.
    """

    name: str
    kind: str  # "full" | "window" | "state" | "cross"
    tokens_per_page: int
    window: int = 0
    publish: str = "planned"  # or "applied"


class CachePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One pool of equal-byte pages for all groups. Page 0 is the null page."""

    page_bytes: int
    pages: int  # including the null page
    groups: tuple[CacheGroup, ...]
    max_rows: int


NO_EFFECT = "no effect"


class Decision(NamedTuple):
    """How an "auto" ended, and why; or, with NO_EFFECT, a setting that changes nothing here. Shown by
    `octavo doctor`; what has no effect is also told at start."""

    field: str
    value: str
    why: str

    @property
    def idle(self) -> bool:
        return self.value == NO_EFFECT

    def __str__(self) -> str:
        verb = "has" if self.idle else "="
        return f"{self.field} {verb} {self.value}: {self.why}"


class MemoryRow(NamedTuple):
    """A line of the memory plan."""

    name: str
    nbytes: int
    note: str = ""


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's answer to start: after it nothing is "auto" any more."""

    cache: CachePlan
    facts: ModelFacts
    max_model_len: int
    dtype: str
    attention: str
    budget: int = 0  # tokens in one step; 0: the worker leaves it to the settings
    verifies: bool = True  # whether the device checks drafts; where not, none are sent
    decisions: tuple[Decision, ...] = ()
    memory: tuple[MemoryRow, ...] = ()
    load_seconds: float = 0.0


class ModelFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model's files are; made by checkpoint.find, read by every process.

    `format` is "safetensors", "gguf" or "dummy". `tokenizer` is a folder or a .gguf file, ""
    where none was asked for. `identity` names these very weights (commit, or path with size
    and time), so that KV of other weights is never taken for ours.
    """

    name: str
    root: str
    weights: tuple[str, ...]
    format: str
    config: str | None
    tokenizer: str
    commit: str | None = None
    identity: str = ""
