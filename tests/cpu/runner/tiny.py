"""A tiny random Llama, a device around it, and the plainest way of decoding with it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from octavo.attention.cpu import CPUAttention
from octavo.core.hf_config import HFConfig
from octavo.core.messages import Admission, Copy, StepMasks, StepPlan, StepResult, Work, pack_work
from octavo.core.request import Sampling
from octavo.models.blocks import Decoder
from octavo.models.registry import build
from octavo.nn.attention import prepare
from octavo.nn.build import Build
from octavo.nn.forward import Forward, GroupInputs, HostBounds
from octavo.nn.protocols import AttentionBackend, Model
from octavo.quant.none import Plain
from octavo.runner.cache import Caches, lay_out
from octavo.runner.device import Device

VOCAB, PAGE, PAGES, LENGTH = 61, 4, 80, 96
CONFIG = dict(
    architectures=["LlamaForCausalLM"],
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_word_embeddings=True,
)


def tiny_model(
    seed: int = 0,
    backend: AttentionBackend | None = None,
    device: str | torch.device = "cpu",
    **changes: Any,
) -> tuple[Model, AttentionBackend]:
    backend = backend or CPUAttention()
    b = Build.root({}, dtype=torch.float32, backend=backend, quant=Plain(), device=device)
    model = build(HFConfig({**CONFIG, **changes}), b)
    tensors = checkpoint_tensors(seed, **changes)
    for sink in b.sinks():
        sink.target.copy_(tensors[sink.name])
    b.finish()
    return model, backend


def checkpoint_tensors(seed: int = 0, **changes: Any) -> dict[str, torch.Tensor]:
    """Random weights under the names of a checkpoint."""
    b = Build.root({}, dtype=torch.float32, device="meta", backend=CPUAttention(), quant=Plain())
    build(HFConfig({**CONFIG, **changes}), b)
    random = torch.Generator().manual_seed(seed)
    return {
        sink.name: torch.randn(sink.target.shape, generator=random) * (1.0 if sink.target.dim() == 1 else 0.3)
        for sink in b.sinks()
    }


def whole_logits(
    model: Model, backend: AttentionBackend, tokens: list[int], last: torch.Tensor | None = None
) -> np.ndarray:
    """[len(tokens), vocab]: one row, everything computed in one go, a cache of its own. `last` [m]: of
    these tokens alone."""
    n, page = len(tokens), 16
    pages = -(-n // page)
    where = model.embed.weight.device if isinstance(model, Decoder) else "cpu"
    with torch.inference_mode(), torch.device(where):
        caches = {spec.name: torch.zeros(backend.layout(spec, pages + 1, page)) for spec in model.cache_specs}
        inputs = GroupInputs(
            torch.tensor([n], dtype=torch.int32),
            torch.arange(1, pages + 1, dtype=torch.int32)[None],
            torch.arange(n) + page,
        )
        f = Forward(
            tokens=torch.tensor(tokens),
            positions=torch.arange(n),
            row_start=torch.tensor([0, n], dtype=torch.int32),
            logits_at=torch.arange(n),
            groups=(inputs,) * len({spec.group for spec in model.cache_specs}),
            caches=caches,
            bounds=HostBounds(1, n, n, n),
            last=last,
        )
        prepare(backend, model.cache_specs, f)
        return model.logits(model.forward(f)).cpu().numpy()


def greedy_decode(model: Model, backend: AttentionBackend, prompt: list[int], count: int) -> list[int]:
    """Full recomputation for every token."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(whole_logits(model, backend, tokens)[-1].argmax()))
    return tokens[len(prompt) :]


@dataclass
class Rig:
    """A device driven by hand; pages are handed out one after the other."""

    device: Device
    model: Model
    backend: AttentionBackend
    used: int = 1
    plans: int = 0
    pages: dict[int, list[int]] = field(default_factory=dict)

    def step(
        self,
        *work: Work,
        admit: tuple[Admission, ...] = (),
        release: tuple[int, ...] = (),
        feed: tuple[tuple[int, int, tuple[int, ...]], ...] = (),
        copies: tuple[Copy, ...] = (),
        blocks: tuple[tuple[int, int, int, tuple[int, ...]], ...] = (),
        same: bool = False,
        masks: tuple[tuple[tuple[int, int], ...], bytes] | None = None,
        upto: dict[int, int] | None = None,
    ) -> StepResult:
        """One plan. Rows get the pages they need, up to `upto[slot]` positions where given."""
        news = list(blocks)
        for slot in release:
            self.pages.pop(slot, None)
        for w in work:
            news += self._grow(w.slot, (upto or {}).get(w.slot, w.start + w.count))
        plan = StepPlan(
            id=self.plans,
            release=release,
            admit=admit,
            feed=feed,
            blocks=tuple(news),
            copies=copies,
            work=b"" if same else pack_work(work),
            same=same,
            masked=masks is not None,
        )
        self.plans += 1
        self.device.forward(plan)
        late = StepMasks(plan_id=plan.id, rows=masks[0], bits=masks[1]) if masks else None
        return self.device.sample(late).result()

    def _grow(self, slot: int, end: int) -> list[tuple[int, int, int, tuple[int, ...]]]:
        held = self.pages.setdefault(slot, [])
        first, missing = len(held), -(-end // PAGE) - len(held)
        if missing <= 0:
            return []
        fresh = list(range(self.used, self.used + missing))
        self.used += missing
        held += fresh
        return [(slot, 0, first, tuple(fresh))]

    def run(
        self, prompt: list[int], slot: int = 0, chunk: int = 1000, seed: int = 1, **sampling: Any
    ) -> list[int]:
        """One request from admission to its end, alone."""
        s = Sampling(**sampling)
        a = Admission(slot=slot, tokens=tuple(prompt), prompt=len(prompt), start=0, seed=seed, sampling=s)
        out: list[int] = []
        at, admit = 0, (a,)
        while True:
            known = len(prompt) + len(out)
            count = min(chunk, known - at)
            r = self.step(Work(slot, at, count, 0, int(at + count == known)), admit=admit)
            admit, at = (), at + count
            out += tokens_of(r)[0]
            if r.finished[0]:
                self.step(release=(slot,))
                return out


def rig(seed: int = 0, rows: int = 8, **changes: Any) -> Rig:
    model, backend = tiny_model(seed, **changes)
    layout = lay_out(model.cache_specs, backend, PAGE, torch.float32)
    caches = Caches(layout, PAGES, torch.float32, torch.device("cpu"))
    caches.populate()
    return Rig(Device(model, backend, layout, caches, rows=rows, length=LENGTH), model, backend)


def tokens_of(r: StepResult) -> list[list[int]]:
    """Valid tokens, row by row."""
    counts, flat = array("i", r.counts), array("i", r.tokens)
    width = len(flat) // len(counts) if counts else 0
    return [list(flat[i * width : i * width + n]) for i, n in enumerate(counts)]
