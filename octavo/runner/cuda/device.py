"""One GPU's steps: F (slots, inputs, model up to the logits) and S (stages, draw, commit).

Every call returns as soon as its launches are queued. Steps of a known size replay captured graphs;
large or unusual ones are launched kernel by kernel, through the same code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor

from octavo.core.events import StepStats
from octavo.core.messages import StepMasks, StepPlan
from octavo.nn.attention import prepare
from octavo.nn.forward import HostBounds, HostRows
from octavo.nn.protocols import AttentionBackend, Layered
from octavo.ops.triton.attention_tune import BRIEF, FEW
from octavo.ops.triton.settle import settle
from octavo.runner.cache import Caches, Layout
from octavo.runner.cuda.graphs import Graphs, buckets, kinds, most_graphs
from octavo.runner.cuda.inputs import Inputs
from octavo.runner.cuda.logprobs import Logprobs
from octavo.runner.cuda.results import Launched, Results, Sent
from octavo.runner.cuda.rows import Rows, Sizes, common_pages, read_rows
from octavo.runner.cuda.shortage import found_memory
from octavo.runner.cuda.state import State
from octavo.sampling.device.edits import Masks
from octavo.sampling.device.sampler import DeviceSampler

_LAUNCHES_S = 0.01  # what launching a step kernel by kernel takes the host, about
_RATE = 3e14  # operations a second of a large product, about
_PROMPTS = (32, 128, 512)  # tokens of prompts whose products have kernels of their own
_SHARED = 512  # tokens that all rows must have in common before they are read once for all


class CudaDevice:
    """`rows` slots for requests of up to `length` tokens. Every call comes from one thread."""

    def __init__(
        self,
        model: Layered,
        backend: AttentionBackend,
        layout: Layout,
        caches: Caches,
        *,
        rows: int,
        length: int,
        budget: int,
        device: torch.device,
        parameters: int = 0,
        eager: bool = False,
    ) -> None:
        self._model, self._backend, self._layout, self._caches = model, backend, layout, caches
        backend.reserve(rows, device)
        vocab = model.vocab_size
        self._state = State(rows, length, vocab, layout.groups, device)
        self._inputs = Inputs(self._state, layout.groups, caches.tensors, budget, device)
        self._sampler = DeviceSampler(rows, vocab, self._state.tokens, device)
        self._logits = torch.zeros(rows, vocab, dtype=torch.float32, device=device)
        self._drawn = torch.zeros(rows, dtype=torch.int32, device=device)
        self._out = torch.zeros(3, rows, dtype=torch.int32, device=device)
        self._results = Results(rows, device)
        self._logprobs = Logprobs(model, device)
        self._graphs = Graphs(device, most=most_graphs(rows), eager=eager)
        spare = int(_LAUNCHES_S * _RATE / (2 * parameters)) if parameters else budget
        self._sizes = Sizes(rows, budget, spare)
        self._rows: Rows | None = None  # of the last plan that had any
        self._shared = 0
        self._step: Rows | None = None  # F launched, S not yet
        self._plan_id = -1
        self._copied: tuple[int, ...] = ()
        self._hidden: Tensor | None = None
        self._lost: set[int] = set()  # rows of the step that found no memory
        self._mends = True
        self._forward_s = 0.0
        self._ends: list[Callable[[], None]] = []
        self._last = time.perf_counter()

    @property
    def logits(self) -> Tensor:
        """[rows, vocab] of the last step, before or after the stages edited them."""
        return self._logits

    @property
    def idle_for(self) -> float:
        """Seconds since a step was last launched."""
        return time.perf_counter() - self._last

    # ---- F ------------------------------------------------------------------------------------

    def forward(self, plan: StepPlan) -> None:
        """Release, admit, feed, blocks, copies, then the model up to the logits."""
        began = self._last = time.perf_counter()
        self._results.begin()
        self._take_in(plan)
        step = self._step = self._next_rows(plan)
        self._plan_id, self._hidden, self._lost = plan.id, None, set()
        with torch.inference_mode():
            self._state.flush()
            self._sampler.flush()
            if plan.copies:
                self._caches.copy(plan.copies)
            if step is not None:
                self._launch(step)
        self._forward_s = time.perf_counter() - began

    def _take_in(self, plan: StepPlan) -> None:
        for slot in plan.release:
            self._release(slot)
        for a in plan.admit:
            self._release(a.slot)
            self._state.admit(a)
            self._sampler.admit(a)
            self._logprobs.admit(a)
        for slot, position, tokens in plan.feed:
            self._state.feed(slot, position, tokens)
        for slot, group, first, ids in plan.blocks:
            self._state.set_blocks(slot, group, first, ids)
        self._copied = tuple(copy.id for copy in plan.copies)

    def _release(self, slot: int) -> None:
        self._state.release(slot)
        self._sampler.release(slot)
        self._logprobs.release(slot)

    def _next_rows(self, plan: StepPlan) -> Rows | None:
        if plan.same:
            rows = self._rows and self._rows.next(plan.id)
            if rows is not None and rows.graph and not self._backend.captures(rows.bounds):
                rows = rows.eager()
                self._state.set_plan(rows.table(), self._shared)
            self._rows = rows
            return rows
        if not plan.work:
            self._rows = None
            return None
        rows = read_rows(plan, self._sizes)
        if not self._backend.captures(rows.bounds):
            rows = rows.eager()
        self._rows = rows
        page = self._layout.groups[0].tokens_per_page
        self._shared = common_pages(self._state.mirror[0], rows, page, _SHARED)
        self._state.set_plan(rows.table(), self._shared)
        return rows

    def _launch(self, step: Rows) -> None:
        """The model on the step's rows: at once, or in pieces where memory runs out."""
        whole = self._logprobs.wants_prompt(step)
        if not self._found_memory(lambda: self._launch_whole(step, whole)):
            self._launch_pieces(step, whole)

    def _found_memory(self, launch: Callable[[], None]) -> bool:
        if self._mends:
            return found_memory(launch)
        launch()
        return True

    def _launch_whole(self, step: Rows, whole: bool) -> None:
        """A graph is captured for bounds that hold for every step of its size."""
        if step.graph and not whole:
            bounds = self._any_of_its_size(step)
            self._graphs.run(("F", bounds), lambda: self._compute(bounds))
        else:
            tokens, rows = step.padded
            bounds = step.bounds._replace(tokens=tokens, rows=rows, shared=self._shared)
            self._hidden = self._compute(bounds, 0, whole, self._seen(step))

    def _any_of_its_size(self, step: Rows) -> HostBounds:
        """Bounds that hold for whatever step is padded to the same size and of the same kind; small ones of
        brief contexts have kernels of their own."""
        tokens, rows = step.padded
        length = self._state.length
        brief = step.decode and rows <= FEW and step.bounds.max_context <= BRIEF
        return step.bounds._replace(
            rows=rows, tokens=tokens, max_query=1 if step.decode else tokens,
            max_context=min(BRIEF, length) if brief else length, shared=self._shared and length,
        )  # fmt: skip

    def _launch_pieces(self, step: Rows, whole: bool) -> None:
        """The first rows of the plan, then the others, or the first tokens of a long row. That changes no
        result, since rows only look back. From here on the step's rows are in the plan's order."""
        step = self._step = step.as_planned()
        done = [part for run in step.runs() for part in self._launch_piece(run, whole)]
        self._set_plan(step.table(), 0)
        self._inputs.lay_out(step.padded[1])  # what S reads
        if whole and not found_memory(lambda: self._join(step, done)):
            self._lost |= self._logprobs.scored_rows(step)
        assert self._rows is not None
        self._set_plan(self._rows.table(), self._shared)  # what the next step reads if it is the same

    def _launch_piece(self, piece: Rows, whole: bool) -> list[tuple[Rows, Tensor]]:
        """Hidden states of what was computed. A token that finds no memory takes its row with it."""
        if piece.first in self._lost:
            return []
        tokens, rows = piece.padded
        bounds = piece.bounds._replace(tokens=tokens, rows=rows)
        seen = self._seen(piece)
        self._set_plan(piece.table(), 0)
        hidden: list[Tensor] = []
        if found_memory(lambda: hidden.append(self._compute(bounds, piece.first, whole, seen))):
            return [(piece, hidden[0])] if whole else []
        halves = piece.halves()
        if halves is None:
            self._lost.add(piece.first)
            return []
        return [part for half in halves for part in self._launch_piece(half, whole)]

    def _set_plan(self, table: np.ndarray, shared: int) -> None:
        self._state.set_plan(table, shared)
        self._state.flush()

    def _join(self, step: Rows, done: list[tuple[Rows, Tensor]]) -> None:
        """Hidden states where the whole step would have them. Behind rows that have ended a piece has
        nothing to say: what comes next overwrites that."""
        if not done:
            return
        like = done[0][1]
        out = like.new_zeros(step.bounds.tokens, like.shape[1])
        for piece, hidden in done:
            at = self._inputs.row_start[piece.first] + piece.skip
            out.index_copy_(0, at + torch.arange(len(hidden), device=out.device), hidden)
        self._hidden = out

    def _seen(self, step: Rows) -> HostRows:
        return HostRows(step.slot, step.start, step.count, tuple(self._state.mirror))

    def _compute(
        self, bounds: HostBounds, first: int = 0, whole: bool = False, host: HostRows | None = None
    ) -> Tensor:
        """Launches a step of exactly bounds.tokens and bounds.rows; the logits of every row go where S
        looks for them. Hidden states [tokens, hidden], or [rows, hidden] where f.last is set. `host` where
        nothing is captured."""
        f = self._inputs.build(bounds, whole)
        f.host = host
        prepare(self._backend, self._model.cache_specs, f)
        hidden = self._model.forward(f)
        logits = self._logits[first : first + bounds.rows]
        self._model.logits(hidden if f.last is not None else hidden.index_select(0, f.logits_at), out=logits)
        return hidden

    # ---- S ------------------------------------------------------------------------------------

    def sample(self, masks: StepMasks | None) -> Launched:
        """S of the plan last given to `forward`. Of its masked rows none may be left."""
        began = time.perf_counter()
        masks = masks if masks is not None and masks.rows else None
        step, self._step = self._step, None
        rest: Callable[[np.ndarray], dict[str, object]] = _nothing
        if step is not None:
            with torch.inference_mode():
                rest = self._draw(step, masks)
            for row in self._lost:
                self._state.release(int(step.slot[row]))  # steps in flight leave it out
        stats = self._stats(step, time.perf_counter() - began)
        sent = Sent(self._plan_id, step, stats, rest, self._copied, frozenset(self._lost))
        return self._results.send(self._out, sent)

    def _draw(self, step: Rows, masks: StepMasks | None) -> Callable[[np.ndarray], dict[str, object]]:
        raw = self._logprobs.before(step, self._logits, self._lost)
        variant = self._sampler.variant(step.slot, masks is not None)
        if not self._found_memory(lambda: self._choose_all(step, variant, masks)):
            self._choose_plain(step, variant, masks)
        row_start = self._inputs.row_start
        return self._logprobs.after(step, raw, self._drawn, self._hidden, row_start, self._lost)

    def _choose_all(self, step: Rows, variant: str, masks: StepMasks | None) -> None:
        rows = step.padded[1]
        if variant == "full":
            bitmaps = self._sampler.bitmaps(step.slot, masks) if masks is not None else None
            self._choose(rows, variant, bitmaps)
        else:
            self._graphs.run(("S", rows, variant), lambda: self._choose(rows, variant, None))

    def _choose_plain(self, step: Rows, variant: str, masks: StepMasks | None) -> None:
        """Without the rows whose logits are edited: only that takes memory."""
        edited = set(self._sampler.edited(step.slot, masks)) if variant == "full" else set()
        everybody = set(range(len(step.slot)))
        rows = step.padded[1]
        if edited in (set(), everybody) or not found_memory(lambda: self._choose(rows, "truncated", None)):
            edited = everybody
        self._lost |= edited

    def _choose(self, rows: int, variant: str, bitmaps: Masks | None) -> None:
        i, s = self._inputs, self._state
        owners, place = i.owners[:rows], i.place[:rows]
        drawn = self._drawn[:rows]
        self._sampler.sample(self._logits[:rows], owners, place, variant, bitmaps, out=drawn)
        step = (owners, i.start[:rows], i.live[:rows], i.sampled[:rows], place)
        settle(drawn, step, s.tokens, s.ends, s.settled_columns, self._out)

    # ---- start and end --------------------------------------------------------------------------

    def use(self, caches: Caches) -> None:
        """Other caches of the same layout, before anything is captured."""
        self._caches, self._inputs.caches = caches, caches.tensors

    @contextmanager
    def eagerly(self) -> Iterator[None]:
        """Steps inside leave no trace among the graphs, and what finds no memory is told, not mended."""
        before, self._graphs.off = self._graphs.off, True
        self._mends = False
        try:
            yield
        finally:
            self._graphs.off, self._mends = before, True

    def rehearse(self) -> None:
        """Goes through steps of every size that has kernels of its own, without the graphs and with few
        layers, for who notes their kernels."""
        budget, slots = self._sizes.budget, self._state.slots
        with torch.inference_mode(), self._model.outlined():
            for rows, tokens in {*((1, min(n, budget)) for n in _PROMPTS), (min(slots, budget), budget)}:
                for fresh in (True, False):
                    self._compute(self._bounds(rows, tokens)._replace(fresh=fresh, later=True))
            for rows in kinds(slots):
                for bounds in self._decoding(rows):
                    self._compute(bounds)
                for variant in ("greedy", "random"):
                    self._choose(rows, variant, None)

    def _decoding(self, rows: int) -> Iterator[HostBounds]:
        """Of all steps of so many rows that decode, but for those that share a prefix."""
        longest = self._bounds(rows, rows)
        yield longest
        if rows <= FEW and longest.max_context > BRIEF:
            yield longest._replace(max_context=BRIEF)

    def _bounds(self, rows: int, tokens: int) -> HostBounds:
        longest = 1 if rows == tokens else tokens
        return HostBounds(rows, tokens, longest, self._state.length, later=False)

    def capture(self, progress: Callable[[float], None]) -> int:
        """Captures the common sizes before the first request; how many graphs there are."""
        sizes = buckets(self._state.slots)
        for done, rows in enumerate(sizes):
            with torch.inference_mode():
                self._capture(rows)
            progress((done + 1) / len(sizes))
        return self._graphs.count

    def _capture(self, rows: int) -> None:
        """Twice: a dry run that is recorded, and its first use, which takes the graph to the device. No slot
        is held, so nothing but page 0 is written."""
        steps = [bounds for bounds in self._decoding(rows) if self._backend.captures(bounds)]
        for _ in range(2):
            for bounds in steps:
                self._graphs.run(("F", bounds), partial(self._compute, bounds))
            self._graphs.run(("S", rows, "greedy"), lambda: self._choose(rows, "greedy", None))

    def at_close(self, end: Callable[[], None]) -> None:
        """Something that must not outlive the device."""
        self._ends.append(end)

    def close(self) -> None:
        """No step follows."""
        for end in self._ends:
            end()
        self._graphs.clear()
        self._caches.close()

    def _stats(self, step: Rows | None, sample_s: float) -> StepStats:
        return StepStats(
            tokens=int(step.count.sum()) if step else 0,
            rows=len(step.slot) if step else 0,
            forward_s=self._forward_s,
            sample_s=sample_s,
        )


def _nothing(host: np.ndarray) -> dict[str, object]:
    return {}
