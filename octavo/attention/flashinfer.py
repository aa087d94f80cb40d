"""FlashInfer's paged kernels for prompts and chunks, beside our own kernels for everything else.

They are planned on the host, from the rows of each step, so such steps are not captured. Rows of one token
go on to our decode kernels, and whole prompts to attention_fresh.py where that runs. Loads the package
only when an instance is made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.attention.triton import Reads, TritonAttention, TritonMeta
from octavo.core.errors import Unsupported
from octavo.core.facts import Platform
from octavo.nn.forward import Forward, HostBounds, HostRows
from octavo.nn.protocols import CacheSpec

if TYPE_CHECKING:
    from octavo.ops.triton.attention_tune import FlashInferFrom

_HEADS = (64, 128, 256)
_DTYPES = (torch.bfloat16, torch.float16)
_WORKSPACE = 128 << 20  # bytes, as its makers recommend
_TILE = 128  # most queries of one of its programs
_TURNS = 2  # plans that may be in flight
_HINT = "use --attention-backend auto, or triton"


class Shape(NamedTuple):
    """What its kernels are made and planned for."""

    heads: int
    kv_heads: int
    head_dim: int
    page: int
    scale: float
    softcap: float
    window: int
    dtype: torch.dtype


class Chosen(NamedTuple):
    """The rows of a step that go through FlashInfer. int32, on the host."""

    ends: NDArray[np.int32]  # [rows + 1]: offsets of the rows among their tokens
    page_ends: NDArray[np.int32]  # [rows + 1]: the same among `pages`
    pages: NDArray[np.int32]
    last: NDArray[np.int32]  # [rows]: positions in the last page
    places: NDArray[np.int32] | None  # [2, tokens]: row and place in it; None: the step begins with them


class Planned(NamedTuple):
    wrapper: Any  # flashinfer.BatchPrefillWithPagedKVCacheWrapper
    tokens: int
    places: Tensor | None  # [tokens] int64: where they are in the step; None: at its beginning


@dataclass
class FlashInferMeta(TritonMeta):
    host: HostRows | None = None
    planned: dict[tuple[Shape, bool], Planned] = field(default_factory=dict)  # for layers before


class FlashInferAttention(TritonAttention):
    """Cache as TritonAttention has it, which is FlashInfer's HND with keys and values apart.

    `takes`: from which steps on it is worth it, FlashInferFrom() for all; None: as measured on the device.
    """

    name = "flashinfer"

    def __init__(self, takes: FlashInferFrom | None = None) -> None:
        super().__init__()
        try:
            from flashinfer import BatchPrefillWithPagedKVCacheWrapper as Wrapper
        except ImportError as error:
            raise Unsupported(
                f"flashinfer-python is there but cannot be imported: {error}"[:300],
                hint=f"install it anew, or {_HINT}",
                field="attention_backend",
            ) from error
        self._wrapper, self._device = Wrapper, torch.device("cpu")
        self._turns: dict[Shape, _Turns] = {}
        self._workspace: Tensor | None = None
        self._asked = takes
        self._from = takes or self._tune.FlashInferFrom()
        self.plans = 0  # made so far

    @staticmethod
    def supports(spec: CacheSpec, platform: Platform, dtypes: tuple[torch.dtype, ...] = ()) -> str | None:
        if (why := TritonAttention.supports(spec, platform, dtypes)) is not None:
            return why
        if find_spec("flashinfer") is None:
            return "flashinfer-python is not installed (pip install 'octavo[flashinfer]')"
        if spec.head_dim not in _HEADS:
            return f"head size {spec.head_dim} ({', '.join(map(str, _HEADS))} work)"
        if len(set(dtypes)) > 1 or not set(dtypes) <= set(_DTYPES):
            found = " and ".join(dict.fromkeys(str(d).removeprefix("torch.") for d in dtypes))
            return f"activations and cache in {found} (bfloat16 or float16, both the same, work)"
        return None

    @staticmethod
    def measured(spec: CacheSpec, platform: Platform) -> bool:
        """Whether it is the faster one for such layers on such a GPU, as far as was measured."""
        from octavo.ops.triton.attention_tune import FLASHINFER

        found = FLASHINFER.get(platform.features[0])
        return found is not None and spec.head_dim in found.head_sizes

    def reserve(self, rows: int, device: torch.device) -> None:
        super().reserve(rows, device)
        self._device = device
        if device.type == "cuda" and self._asked is None:
            major, minor = torch.cuda.get_device_capability(device)
            self._from = self._tune.FLASHINFER.get(f"sm{major}{minor}", self._from)

    def captures(self, bounds: HostBounds) -> bool:
        return not self._takes(bounds)

    def _takes(self, bounds: HostBounds) -> bool:
        """Whether rows of several tokens are worth planning for, launching each kernel included."""
        if bounds.max_query < 2 or bounds.tokens < self._from.tokens:
            return False
        if bounds.max_context < self._from.context:
            return False
        whole = self._tune.fresh_config(bounds.max_query) is not None and self._can_whole(self._device)
        return bounds.later or not whole

    def plan(self, spec: CacheSpec, bounds: HostBounds) -> FlashInferMeta:
        return FlashInferMeta(spec, bounds)

    def prepare(self, f: Forward, meta: TritonMeta) -> None:
        super().prepare(f, meta)
        assert isinstance(meta, FlashInferMeta)
        meta.host = f.host if self._takes(f.bounds) else None

    def _long_rows(self, reads: Reads, meta: TritonMeta, later: bool) -> None:
        assert isinstance(meta, FlashInferMeta)
        q, keys, scales = reads.q, reads.keys, reads.scales
        heads, d = q.shape[1:]
        page, kv_heads = keys.shape[1:3]
        shape = Shape(heads, kv_heads, d, page, scales["scale"], scales["softcap"], reads.window, q.dtype)
        known = q.dtype in _DTYPES and keys.dtype == q.dtype and d in _HEADS
        if known and shape not in self._turns:  # at the start, before any request
            self._turns[shape] = self._make(shape)
        if not known or meta.host is None:
            super()._long_rows(reads, meta, later)
            return
        if (shape, later) not in meta.planned:
            meta.planned[shape, later] = self._planned(shape, meta, meta.host, later)
        wrapper, tokens, places = meta.planned[shape, later]
        cache, out = (keys.transpose(1, 2), reads.values.transpose(1, 2)), reads.out.view(-1, heads, d)
        if places is None:
            wrapper.run(q[:tokens], cache, out=out[:tokens], enable_pdl=False)
        else:
            out.index_copy_(0, places, wrapper.run(q.index_select(0, places), cache, enable_pdl=False))

    def _planned(self, shape: Shape, meta: TritonMeta, host: HostRows, later: bool) -> Planned:
        rows = choose_rows(host, meta.spec.group, shape.page, later)
        places = None
        if rows.places is not None:  # rows before may have ended on the device, which alone knows it
            assert meta.row_start is not None
            row, place = _pinned(rows.places, self._device).to(self._device, non_blocking=True)
            places = (meta.row_start[row] + place).long()
        self.plans += 1
        return Planned(self._turns[shape].plan(rows), int(rows.ends[-1]), places)

    def _make(self, shape: Shape) -> _Turns:
        """Its kernels are compiled now, unless they lie compiled beside it."""
        if self._workspace is None:
            self._workspace = torch.zeros(
                self._workspace_bytes(shape), dtype=torch.uint8, device=self._device
            )
        hopper = self._device.type == "cuda" and torch.cuda.get_device_capability(self._device)[0] == 9
        made = [
            self._wrapper(self._workspace, "HND", backend="fa3" if hopper else "fa2") for _ in range(_TURNS)
        ]
        turns = _Turns(shape, made, self._device)
        try:
            turns.plan(choose_rows(_ONE_ROW, 0, shape.page, later=False))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, OSError) as error:  # its compiler's
            raise Unsupported(
                f"FlashInfer could not make its kernels: {str(error)[-300:]}",
                hint=f"it needs nvcc, or the package flashinfer-jit-cache; or {_HINT}",
                field="attention_backend",
            ) from error
        return turns

    def _workspace_bytes(self, shape: Shape) -> int:
        """For partial results, of two programs a multiprocessor at most."""
        if self._device.type != "cuda":
            return _WORKSPACE
        programs = 2 * torch.cuda.get_device_properties(self._device).multi_processor_count
        tiles = -(-programs // shape.kv_heads)
        return max(_WORKSPACE, shape.heads * tiles * _TILE * (shape.head_dim + 1) * 4)


_ONE_ROW = HostRows(np.zeros(1, int), np.zeros(1, int), np.full(1, 2), (np.zeros((1, 2), np.int32),))


class _Turns:
    """Wrappers that are planned in turn. Each copies its plan to the device out of pinned memory of its own,
    which is written again only when that copy is done."""

    def __init__(self, shape: Shape, wrappers: list[Any], device: torch.device) -> None:
        self._shape, self._wrappers, self._device = shape, wrappers, device
        self._copied: list[torch.cuda.Event | None] = [None] * len(wrappers)
        self._turn = 0

    def plan(self, rows: Chosen) -> Any:
        """The wrapper whose `run` attends for these rows until it is planned again."""
        turn = self._turn = (self._turn + 1) % len(self._wrappers)
        event, wrapper, s = self._copied[turn], self._wrappers[turn], self._shape
        if event is not None:
            event.synchronize()
        given = (_pinned(part, self._device) for part in (rows.ends, rows.page_ends, rows.pages, rows.last))
        wrapper.plan(
            *given, s.heads, s.kv_heads, s.head_dim, s.page,
            causal=True, sm_scale=s.scale, window_left=s.window - 1, logits_soft_cap=s.softcap,
            q_data_type=s.dtype, kv_data_type=s.dtype,
        )  # fmt: skip
        if self._device.type == "cuda":
            event = self._copied[turn] = event or torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        return wrapper


def choose_rows(host: HostRows, group: int, page: int, later: bool) -> Chosen:
    """Rows of several tokens; `later`: only those that began before this step."""
    wanted = host.counts > 1
    if later:
        wanted &= host.starts > 0
    rows = np.flatnonzero(wanted)
    counts, lengths = host.counts[rows], host.starts[rows] + host.counts[rows]
    used = -(-lengths // page)
    table = host.tables[group]
    pages = [table[slot, :many] for slot, many in zip(host.slots[rows], used, strict=True)]
    ends = _ends(counts)
    places = None
    if len(rows) != rows[-1] + 1:  # others are between or before them
        within = np.arange(ends[-1]) - np.repeat(ends[:-1], counts)
        places = np.stack((np.repeat(rows, counts), within)).astype(np.int32)
    last = (lengths - 1) % page + 1
    return Chosen(ends, _ends(used), np.concatenate(pages), last.astype(np.int32), places)


def _ends(counts: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int32)


def _pinned(values: NDArray[np.int32], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(values)
    return tensor.pin_memory() if device.type == "cuda" else tensor
