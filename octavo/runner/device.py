"""One worker's steps: F (slots, inputs, model) and S (stages, draw, verification, commit).

Carries out plans on a loaded model. Knows no files, no settings and no scheduler. Hosts of
features contain no special cases for them.
"""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol

import numpy as np
import torch

from octavo.core.events import StepStats
from octavo.core.messages import StepMasks, StepPlan, StepResult
from octavo.nn.attention import prepare
from octavo.nn.forward import Forward
from octavo.nn.protocols import AttentionBackend, Model
from octavo.ops.cpu.lib import Engine
from octavo.runner.cache import Caches, Layout
from octavo.runner.commit import Outcome, commit
from octavo.runner.features import Answer, Feature, PromptLogprobs, SampledLogprobs
from octavo.runner.inputs import Inputs, Step
from octavo.runner.native_inputs import NativeInputs
from octavo.runner.slots import Slots
from octavo.runner.transfer import pack, to_host
from octavo.sampling.plugins import stages
from octavo.sampling.sampler import Sampler
from octavo.sampling.stage import Index


class Done(NamedTuple):
    """A finished step; executor.Pending on a device that is never behind."""

    answer: StepResult

    def ready(self) -> bool:
        return True

    def result(self) -> StepResult:
        return self.answer


class Turns(Protocol):
    """Both ends of a step at the slots: runner/native_inputs.py, or `Plain`."""

    def build(self, plan: StepPlan) -> Step: ...
    def commit(self, step: Step, samples: Index) -> Outcome: ...


class Plain(Inputs):
    """With array operations."""

    def commit(self, step: Step, samples: Index) -> Outcome:
        return commit(self._slots, step, samples)


class Device:
    """`rows` slots for requests of up to `length` tokens; `engine`: what draws natively. Every call
    comes from one thread."""

    def __init__(
        self,
        model: Model,
        backend: AttentionBackend,
        layout: Layout,
        caches: Caches,
        *,
        rows: int,
        length: int,
        engine: Engine | None = None,
    ) -> None:
        self._model = model
        self._backend = backend
        self._caches = caches
        self._slots = Slots(rows, length, layout.groups)
        self._turns: Turns = (
            Plain(self._slots, layout.groups, caches.tensors)
            if engine is None
            else NativeInputs(self._slots, layout.groups, caches.tensors, engine.library)
        )
        self._sampler = Sampler(rows, stages(), engine)
        self._groups = tuple({spec.group: spec for spec in reversed(model.cache_specs)}.values())
        self._features: tuple[Feature, ...] = (
            SampledLogprobs(),
            PromptLogprobs(model.logits, model.vocab_size),
        )
        self._step: Step | None = None
        self._copied: tuple[int, ...] = ()
        self._forward_s = 0.0

    def forward(self, plan: StepPlan) -> None:
        """F: release, admit, feed, blocks, copies, then the model up to the logits."""
        began = time.perf_counter()
        self._take_in(plan)
        step = self._step = self._turns.build(plan)
        for feature in self._features:
            feature.before(step)
        if step.forward is not None:
            with torch.inference_mode():
                self._run_model(step, step.forward)
        self._forward_s = time.perf_counter() - began

    def sample(self, masks: StepMasks | None) -> Done:
        """S of the plan last given to `forward`."""
        began = time.perf_counter()
        step, self._step = self._step, None
        assert step is not None, "S follows F"
        assert masks is None or masks.plan_id == step.plan_id, "masks of another plan"
        answer: Answer = {}
        with torch.inference_mode():
            for feature in self._features:
                feature.scored(step)
            samples: Index = np.zeros(0, np.int64)
            if step.scores is not None:
                samples = self._sampler.sample(step.scores, step.rows, masks)
            outcome = self._turns.commit(step, samples)
            for feature in self._features:
                feature.after(step, outcome, answer)
        stats = self._stats(step, outcome, time.perf_counter() - began)
        return Done(
            StepResult(
                plan_id=step.plan_id,
                tokens=pack(outcome.tokens),
                counts=pack(outcome.counts),
                finished=outcome.finished.tobytes(),
                copied=self._copied,
                stats=stats,
                **answer,
            )
        )

    def close(self) -> None:
        """No step follows."""
        self._caches.close()

    def _take_in(self, plan: StepPlan) -> None:
        for slot in plan.release:
            self._release(slot)
        for a in plan.admit:
            self._release(a.slot)
            self._slots.admit(a)
            self._sampler.admit(a)
            for feature in self._features:
                feature.admit(a)
        for slot, position, tokens in plan.feed:
            self._slots.feed(slot, position, tokens)
        for slot, group, first, ids in plan.blocks:
            self._slots.set_blocks(slot, group, first, ids)
        if plan.copies:
            self._caches.copy(plan.copies)
        self._copied = tuple(copy.id for copy in plan.copies)

    def _release(self, slot: int) -> None:
        self._slots.release(slot)
        self._sampler.release(slot)
        for feature in self._features:
            feature.release(slot)

    def _run_model(self, step: Step, f: Forward) -> None:
        prepare(self._backend, self._groups, f)
        step.hidden = self._model.forward(f)
        if len(step.rows.slot):
            hidden = step.hidden
            if len(step.rows.slot) < len(hidden):
                hidden = hidden.index_select(0, f.logits_at)
            step.scores = to_host(self._model.logits(hidden))

    def _stats(self, step: Step, outcome: Outcome, sample_s: float) -> StepStats:
        drafts = len(step.rows.slot) - len(step.sampled)
        return StepStats(
            tokens=step.forward.bounds.tokens if step.forward else 0,
            rows=step.forward.bounds.rows if step.forward else 0,
            forward_s=self._forward_s,
            sample_s=sample_s,
            drafts=drafts,
            accepted=int(outcome.counts.sum()) - len(step.sampled) if drafts else 0,
        )
