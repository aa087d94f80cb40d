"""From files to a device that is ready: facts, resolution, memory plan, loading, warm-up.

The one place that knows the order. Nothing large is allocated before the memory plan stands.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import Protocol

import torch

from octavo.attention.choose import choose_attention
from octavo.attention.torch_ref import TorchRef
from octavo.checkpoint.load import load_model
from octavo.checkpoint.open import open_checkpoint
from octavo.config.engine import EngineConfig
from octavo.config.resolve import Resolved, resolve
from octavo.core.errors import UserError
from octavo.core.facts import CachePlan, Decision, ModelFacts, ModelFiles, Platform, Ready
from octavo.core.messages import NO_MEMORY, Admission, StepMasks, StepPlan, Work, pack_work
from octavo.core.request import Sampling
from octavo.core.runner import Pending, Progress
from octavo.models.facts import model_facts
from octavo.models.registry import Survey, build, survey
from octavo.nn.build import Build
from octavo.nn.protocols import DTYPES, Checkpoint, Layered, Model
from octavo.platform.cpu import use_threads
from octavo.platform.cuda import why_not
from octavo.platform.detect import default_dtype, detect
from octavo.quant.choose import choose_quantization
from octavo.quant.fp8 import why_not_fp8
from octavo.runner.cache import Caches, Layout, lay_out
from octavo.runner.cuda.shortage import needing
from octavo.runner.device import Device
from octavo.runner.drawing import Drawing
from octavo.runner.memory import Costs, plan_memory
from octavo.runner.native import check_cache, plan_native
from octavo.runner.slots import Slots
from octavo.sampling import plugins


def draw_up(config: EngineConfig, files: ModelFiles, checkpoint: Checkpoint) -> Drawing:
    """Reads headers and settings only. UserError where the plan cannot stand."""
    platform = detect()
    facts = model_facts(checkpoint.hf, checkpoint.index)
    resolved, decisions = resolve(
        config, facts, platform, weights=files.format, native=default_dtype(platform)
    )
    _check_formats(resolved, platform)
    quant = choose_quantization(checkpoint.hf, checkpoint.index, config.model.quantization, platform)
    dtype = DTYPES[resolved.dtype]
    needs = survey(checkpoint.hf, checkpoint.index, dtype, TorchRef(), quant)
    threads, why = use_threads(platform, config.cpu.cpu_threads) if platform.kind == "cpu" else (0, "")
    native, kernels = plan_native(config, resolved, files, checkpoint, needs, platform, threads)
    check_cache(resolved, native, kernels)
    if native is None:
        asked, dtypes = config.model.attention_backend, (dtype, DTYPES[resolved.kv_dtype])
        backend, chosen = choose_attention(needs.specs, platform, None if asked == "auto" else asked, dtypes)
    else:
        backend, needs = native.backend, native.needs
        chosen = Decision("attention", backend.name, "the native library runs the whole step")
    layout = lay_out(needs.specs, backend, resolved.block_size, DTYPES[resolved.kv_dtype])
    parameters = needs.parameters
    costs = _costs(resolved, facts, needs, layout)
    memory = plan_memory(resolved, costs, platform)
    spread = (Decision("cpu_threads", str(threads), why),) if threads else ()
    made = (*decisions, *spread, *kernels, chosen, *plugins.decisions(platform.kind), *memory.decisions)
    return Drawing(resolved, facts, platform, backend, quant, layout, costs, parameters, memory, made, native)


def _check_formats(resolved: Resolved, platform: Platform) -> None:
    """UserError where the GPU has no arithmetic for what was asked."""
    if platform.kind != "cuda":
        return
    instead, _ = default_dtype(platform)
    if (why := why_not(resolved.dtype, platform)) is not None:
        raise UserError(f"dtype {resolved.dtype}: {why}", hint=f"use --dtype {instead}", field="dtype")
    eight = resolved.kv_dtype == "fp8_e4m3"
    why = why_not_fp8(platform) if eight else why_not(resolved.kv_dtype, platform)
    if why is not None:
        raise UserError(
            f"kv_cache_dtype {'fp8' if eight else resolved.kv_dtype}: {why}",
            hint=f"use {instead}",
            field="kv_cache_dtype",
        )


class Steps(Protocol):
    """What carries out plans: runner/device.py on a CPU, runner/cuda/device.py on a GPU."""

    def forward(self, plan: StepPlan) -> None: ...
    def sample(self, masks: StepMasks | None) -> Pending: ...
    def close(self) -> None: ...


def start(config: EngineConfig, files: ModelFiles, progress: Progress) -> tuple[Steps, Ready]:
    """Loads the model and proves it with a step. Raises typed errors naming field and remedy."""
    began = time.perf_counter()
    overrides = config.model.hf_overrides
    checkpoint = open_checkpoint(files, config.model.load_format, overrides=overrides, seed=config.model.seed)
    device: Steps
    with closing(checkpoint):
        plan = draw_up(config, files, checkpoint)
        progress("plan", 1.0)
        if plan.platform.kind == "cuda":
            from octavo.runner.cuda.start import start_cuda  # triton is there only where a GPU is

            with needing("the weights", plan.costs.weights, plan.platform, "model"):
                model = _load(plan, checkpoint, torch.device("cuda"), progress)
            device, plan = start_cuda(plan, model, progress)
        else:
            device, plan = _start_cpu(plan, checkpoint, progress)
    with needing("the first step", plan.memory.rows[-1].nbytes, plan.platform):
        _warm_up(device, plan)
    progress("warm-up", 1.0)
    return device, _ready(plan, plan.decisions, time.perf_counter() - began)


def _start_cpu(plan: Drawing, checkpoint: Checkpoint, progress: Progress) -> tuple[Device, Drawing]:
    where = torch.device("cpu")
    caches = Caches(plan.layout, plan.memory.pages, DTYPES[plan.resolved.kv_dtype], where)
    model: Model
    if plan.native is None:
        model = _load(plan, checkpoint, where, progress)
    else:
        model, pages = plan.native.load(checkpoint, lambda share: progress("weights", share))
        plan = plan._replace(decisions=tuple(pages if d.field == pages.field else d for d in plan.decisions))
    rows, length = plan.resolved.max_num_seqs, plan.memory.max_model_len
    engine = plan.native.engine if plan.native is not None else None
    if engine is not None:
        torch.set_num_threads(1)  # its threads would wait beside the engine's, on the same cores
    device = Device(model, plan.backend, plan.layout, caches, rows=rows, length=length, engine=engine)
    caches.populate()
    return device, plan


def _load(plan: Drawing, checkpoint: Checkpoint, where: torch.device, progress: Progress) -> Layered:
    b = Build.root(
        checkpoint.index,
        dtype=DTYPES[plan.resolved.dtype],
        backend=plan.backend,
        quant=plan.quant,
        device=where,
    )
    model = build(checkpoint.hf, b)
    load_model(checkpoint, b, lambda share: progress("weights", share))
    return model


def _costs(resolved: Resolved, facts: ModelFacts, needs: Survey, layout: Layout) -> Costs:
    rows, length, groups = resolved.max_num_seqs, resolved.max_model_len, len(layout.groups)
    return Costs(
        weights=needs.weight_bytes,
        page=layout.page_bytes,
        groups=groups,
        layers=facts.num_layers,
        hidden=needs.hidden,
        widest=needs.widest,
        vocab=facts.vocab_size,
        itemsize=DTYPES[resolved.dtype].itemsize,
        slots=Slots.nbytes(rows, length, resolved.block_size, groups),
    )


def _ready(plan: Drawing, decisions: tuple[Decision, ...], seconds: float) -> Ready:
    return Ready(
        cache=CachePlan(
            page_bytes=plan.layout.page_bytes,
            pages=plan.memory.pages,
            groups=plan.layout.groups,
            max_rows=plan.resolved.max_num_seqs,
        ),
        facts=plan.facts,
        max_model_len=plan.memory.max_model_len,
        dtype=plan.resolved.dtype,
        attention=plan.backend.name,
        budget=plan.resolved.budget,
        verifies=plan.platform.kind != "cuda",
        decisions=decisions,
        memory=plan.memory.rows,
        load_seconds=seconds,
    )


def _warm_up(device: Steps, plan: Drawing) -> None:
    """A prompt and a decode on slot 0, so that the first request finds everything in place."""
    page = plan.resolved.block_size
    count = min(4, page - 1, plan.memory.max_model_len - 1)
    if count < 1:
        return
    sampling = Sampling(temperature=0.0, max_tokens=2)
    a = Admission(slot=0, tokens=(0,) * count, prompt=count, start=0, seed=0, sampling=sampling)
    blocks = tuple((0, group, 0, (1,)) for group in range(len(plan.layout.groups)))
    steps = (
        StepPlan(id=-3, admit=(a,), blocks=blocks, work=pack_work([Work(0, 0, count, 0, 1)])),
        StepPlan(id=-2, work=pack_work([Work(0, count, 1, 0, 1)])),
        StepPlan(id=-1, release=(0,)),
    )
    for step in steps:
        device.forward(step)
        if NO_MEMORY in device.sample(None).result().finished:
            raise torch.OutOfMemoryError("a step of one row found no memory")
