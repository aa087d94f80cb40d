"""A GPU from loaded weights to ready: memory is measured with one real step of the largest size, the rest
becomes KV cache, and the common step sizes are captured.

Where the largest step does not fit, the budget shrinks (unless it was asked for) before anybody is refused.
"""

from __future__ import annotations

import dataclasses
import os

import torch

from octavo.core.errors import UserError
from octavo.core.facts import Decision, MemoryRow
from octavo.core.messages import Admission, StepPlan, Work, pack_work
from octavo.core.request import Sampling
from octavo.core.runner import Progress
from octavo.nn.forward import HostBounds
from octavo.nn.protocols import DTYPES, Layered
from octavo.ops.triton import attach, matmul
from octavo.ops.triton.rehearse import Rehearsal
from octavo.runner.cache import Caches
from octavo.runner.cuda.device import CudaDevice
from octavo.runner.cuda.graphs import most_graphs
from octavo.runner.cuda.shortage import needing
from octavo.runner.cuda.state import State
from octavo.runner.drawing import Drawing
from octavo.runner.memory import MemoryPlan, plan_memory

__all__ = ["attach", "start_cuda"]  # kernels are attached before the first step


_SMALLEST = 256  # tokens: a budget below is not tried
_QUIET = 1.0  # seconds without a step after which the engine counts as idle
_SHORT = 32  # tokens of a short prompt
_GRAPH, _GRAPHS = 3 << 20, 192 << 20  # bytes of each graph, and of their common pool
_STAGES = 128 << 20  # bytes: work space of penalties and log-probabilities
_HEADROOM = 256 << 20  # fragments, workspaces that libraries take later


def start_cuda(plan: Drawing, model: Layered, progress: Progress) -> tuple[CudaDevice, Drawing]:
    """The device, and the drawing with what was measured. UserError where nothing fits."""
    where = torch.device("cuda")
    plan, without = _graphs(plan)
    with needing("what a step takes beside the weights", 2 * plan.costs.page, plan.platform, "model"):
        matmul.reserve(where)
        tiny = Caches(plan.layout, 2, DTYPES[plan.resolved.kv_dtype], where)
    device, plan, peak = _measured(plan, model, tiny, where)
    progress("memory", 1.0)
    memory = _plan_cache(plan, peak)
    caches, memory = _allocate(plan, memory, DTYPES[plan.resolved.kv_dtype], where)
    device.use(caches)
    with needing("graphs and work space", memory.rows[-1].nbytes, plan.platform):
        if not plan.resolved.eager:
            count = device.capture(lambda share: progress("graphs", share))
            without = Decision("graphs", str(count), "captured before the first request")
        _compile_rest(device, plan)
    decisions = (*plan.decisions, *memory.decisions, *((without,) if without else ()))
    return device, plan._replace(memory=memory, decisions=decisions)


def _graphs(plan: Drawing) -> tuple[Drawing, Decision | None]:
    """Eager where a backend's steps cannot be captured; why there are no graphs, if so."""
    if plan.resolved.eager:
        return plan, Decision("graphs", "none", "enforce_eager")
    if plan.backend.captures(HostBounds(1, 1, 1, 1)):
        return plan, None
    waits = (
        f"attention by {plan.backend.name} reads every step's lengths on the host, which no graph can hold"
    )
    eager = plan._replace(resolved=dataclasses.replace(plan.resolved, eager=True))
    return eager, Decision("graphs", "none", waits)


def _measured(
    plan: Drawing, model: Layered, tiny: Caches, where: torch.device
) -> tuple[CudaDevice, Drawing, int]:
    """The device on a cache of one page, and the bytes its largest step takes beside weights and slots."""
    while True:
        if (made := _tried(plan, model, tiny, where)) is not None:
            return made[0], plan, made[1]
        torch.cuda.empty_cache()
        plan = _smaller(plan)


def _tried(plan: Drawing, model: Layered, tiny: Caches, where: torch.device) -> tuple[CudaDevice, int] | None:
    """None where there is no memory for it, and nothing of it is left."""
    r = plan.resolved
    try:
        device = CudaDevice(
            model, plan.backend, plan.layout, tiny,
            rows=r.max_num_seqs, length=plan.memory.max_model_len, budget=r.budget,
            device=where, parameters=plan.parameters, eager=r.eager,
        )  # fmt: skip
        _compile(device, plan)
        return device, _peak_of(device, plan)
    except torch.OutOfMemoryError:
        return None


def _smaller(plan: Drawing) -> Drawing:
    r = plan.resolved
    budget = r.budget // 2
    if r.fixed_budget or budget < _SMALLEST:
        raise UserError(
            f"a step of {r.budget} tokens and {r.max_num_seqs} requests does not fit beside the weights",
            hint=f"use --max-num-batched-tokens {max(budget, 1)}, or a lower --max-num-seqs",
            field="max_num_batched_tokens",
        )
    made = Decision("max_num_batched_tokens", str(budget), f"a step of {r.budget} tokens did not fit")
    return plan._replace(resolved=dataclasses.replace(r, budget=budget), decisions=(*plan.decisions, made))


def _compile(device: CudaDevice, plan: Drawing) -> None:
    """All kernels of ordinary steps at once, on every core: one after the other they would take longer
    than everything else."""
    rehearsal = Rehearsal()
    with rehearsal.noting(), rehearsal.silent(), device.eagerly():
        device.rehearse()
    rehearsal.compile(_threads())


def _compile_rest(device: CudaDevice, plan: Drawing) -> None:
    """What only some requests need, while nobody asks for anything."""
    rehearsal = Rehearsal()
    with rehearsal.noting(), device.eagerly():
        for how in _RARE:
            _largest_step(device, plan, how, rows=1, tokens=_SHORT)
    device.at_close(rehearsal.compile_later(lambda: device.idle_for > _QUIET))


_RARE = (
    Sampling(temperature=0.7, top_k=40, top_p=0.9, max_tokens=1),
    Sampling(
        temperature=0.7, min_p=0.1, repetition_penalty=1.1, logit_bias=((0, 1.0),), logprobs=5, max_tokens=1
    ),
)


def _threads() -> int:
    return len(os.sched_getaffinity(0))


def _peak_of(device: CudaDevice, plan: Drawing) -> int:
    """Bytes of the largest step, and of the most that sampling can add to it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with device.eagerly():
        _largest_step(device, plan, Sampling(temperature=0.0, max_tokens=1))
    peak = torch.cuda.max_memory_allocated() - before
    torch.cuda.empty_cache()
    return peak + plan.resolved.max_num_seqs * plan.facts.vocab_size * 4 + _STAGES


def _largest_step(
    device: CudaDevice, plan: Drawing, how: Sampling, rows: int | None = None, tokens: int | None = None
) -> None:
    """The whole budget is used (or `tokens`) and every row sampled; then the slots are free again."""
    budget = min(tokens or plan.resolved.budget, plan.resolved.budget)
    rows = min(rows or plan.resolved.max_num_seqs, budget)
    each = min(max(1, budget // rows), plan.memory.max_model_len - 1)
    admit = tuple(
        Admission(slot=slot, tokens=(1,) * each, prompt=each, start=0, seed=slot, sampling=how)
        for slot in range(rows)
    )
    work = pack_work(Work(slot, 0, each, 0, 1) for slot in range(rows))
    device.forward(StepPlan(id=-5, admit=admit, work=work))
    device.sample(None).result()
    device.forward(StepPlan(id=-4, release=tuple(range(rows))))
    device.sample(None).result()


def _plan_cache(plan: Drawing, peak: int) -> MemoryPlan:
    free, _ = torch.cuda.mem_get_info()
    measured = _measured_rows(plan, peak, free, torch.cuda.memory_allocated())
    return plan_memory(plan.resolved, plan.costs, plan.platform, measured)


def _measured_rows(plan: Drawing, peak: int, free: int, held: int) -> tuple[MemoryRow, ...]:
    """All but the cache. `held` by tensors, of which those from before the start are not this engine's."""
    r, costs, platform = plan.resolved, plan.costs, plan.platform
    ours = max(0, held - platform.memory_held)
    # steps of the whole budget are captured, too: their memory is beside that of eager ones
    most = 0 if r.eager else most_graphs(r.max_num_seqs)
    graphs = 0 if r.eager else _GRAPHS + _GRAPH * most + peak
    slots = State.nbytes(r.max_num_seqs, r.max_model_len, costs.vocab, r.block_size, costs.groups)
    return (
        MemoryRow("weights", max(0, ours - slots), r.dtype),
        MemoryRow("slots", slots, f"{r.max_num_seqs} rows"),
        MemoryRow("context", max(0, platform.memory_free - free - ours), "CUDA and libraries"),
        MemoryRow("activations", peak, f"measured with {r.budget} tokens in a step"),
        MemoryRow("graphs", graphs, f"{most} at most"),
        MemoryRow("headroom", _HEADROOM, "fragments, workspaces"),
    )


def _allocate(
    plan: Drawing, memory: MemoryPlan, dtype: torch.dtype, where: torch.device
) -> tuple[Caches, MemoryPlan]:
    """The cache; a little smaller where the device has less than it said."""
    pages = memory.pages
    while True:
        try:
            return Caches(plan.layout, pages, dtype, where), memory._replace(pages=pages)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            pages -= max(1, pages // 20)
            needed = 1 + len(plan.layout.groups) * -(-memory.max_model_len // plan.resolved.block_size)
            if pages < needed:
                raise UserError(
                    "the KV cache does not fit: another program takes this GPU's memory",
                    hint="free some of it, or use a lower --gpu-memory-utilization",
                    field="gpu_memory_utilization",
                ) from error
