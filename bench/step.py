"""Python's share of a decode step on a CPU: everything but the model, with the native calls and without.

    python -m bench.step

A model that answers at once stands in for the real one; its logits have the size and about the
shape of SmolLM2's. The two ways alternate step by step; the figure is the tenth percentile.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from octavo.attention.cpu import CPUAttention
from octavo.core.messages import Admission, StepPlan, Work, pack_work
from octavo.core.request import Sampling
from octavo.nn.forward import Forward
from octavo.nn.protocols import CacheSpec
from octavo.ops.cpu.find import find_library
from octavo.ops.cpu.lib import Engine
from octavo.runner.cache import Caches, lay_out
from octavo.runner.device import Device

VOCAB, PAGE, PAGES, LENGTH, STEPS = 49_152, 16, 1200, 1024, 400
KINDS = {
    "greedy": Sampling(temperature=0.0, max_tokens=1000),
    "temperature 0.8": Sampling(temperature=0.8, max_tokens=1000),
    "temperature 0.8, top_p 0.95": Sampling(temperature=0.8, top_p=0.95, max_tokens=1000),
    "temperature 0.8, top_k 40, top_p 0.95": Sampling(temperature=0.8, top_k=40, top_p=0.95, max_tokens=1000),
}


class Still:
    """nn.protocols.Model that computes nothing."""

    vocab_size = VOCAB

    def __init__(self, rows: int, specs: tuple[CacheSpec, ...]) -> None:
        self.cache_specs = specs
        self.source = torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(0)) * 2.5
        self.source[:, :8] += 12  # a few likely tokens, as a model has
        self.scores = self.source.clone()

    def forward(self, f: Forward) -> Tensor:
        return torch.zeros(len(f.tokens), 8)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.scores[: len(hidden)]


def device(rows: int, sampling: Sampling, engine: Engine | None) -> tuple[Device, Still]:
    """With `rows` rows that decode."""
    model, backend = Still(rows, (CacheSpec("layer", 1, 16),)), CPUAttention()
    layout = lay_out(model.cache_specs, backend, PAGE, torch.float32)
    caches = Caches(layout, PAGES, torch.float32, torch.device("cpu"))
    made = Device(model, backend, layout, caches, rows=rows, length=LENGTH, engine=engine)
    admit = tuple(
        Admission(slot=i, tokens=(1,) * 16, prompt=16, start=0, seed=i, sampling=sampling)
        for i in range(rows)
    )
    blocks = tuple((i, 0, 0, tuple(range(1 + 64 * i, 65 + 64 * i))) for i in range(rows))
    for at, count in ((0, 16), (16, 1)):
        work = pack_work([Work(i, at, count, 0, 1) for i in range(rows)])
        made.forward(
            StepPlan(id=at, admit=admit if at == 0 else (), blocks=blocks if at == 0 else (), work=work)
        )
        made.sample(None)
    return made, model


def step(made: Device, model: Still, plan: StepPlan) -> float:
    model.scores.copy_(model.source)
    began = time.perf_counter()
    made.forward(plan)
    made.sample(None).result()
    return time.perf_counter() - began


def main() -> None:
    library = find_library()
    if isinstance(library, str):
        raise SystemExit(f"no native library: {library}")
    engine = Engine(library, 1)
    torch.set_num_threads(1)
    print("microseconds of a step without its model, one thread: arrays / native calls")
    for rows in (1, 16):
        for name, sampling in KINDS.items():
            pair = [device(rows, sampling, chosen) for chosen in (None, engine)]
            seconds: list[list[float]] = [[], []]
            for i in range(STEPS):
                for (made, model), times in zip(pair, seconds, strict=True):
                    times.append(step(made, model, StepPlan(id=17 + i, same=True)))
            low = [sorted(times)[STEPS // 10] * 1e6 for times in seconds]
            print(f"{rows:3} rows, {name}: {low[0]:.0f} / {low[1]:.0f}")


if __name__ == "__main__":
    main()
