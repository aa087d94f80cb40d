"""Runs a model over its own paged cache, the way the runner does, with rows given by hand."""

from __future__ import annotations

import random
from itertools import pairwise

import torch
from torch import Tensor

from octavo.attention.cpu import CPUAttention
from octavo.checkpoint.load import load_model
from octavo.checkpoint.open import open_checkpoint
from octavo.core.facts import ModelFiles
from octavo.models.registry import build, survey
from octavo.nn.attention import prepare
from octavo.nn.build import Build
from octavo.nn.forward import Forward, GroupInputs, HostBounds
from octavo.nn.protocols import AttentionBackend, Model
from octavo.quant.choose import choose_quantization


def files(root: str, weights: list[str], kind: str = "safetensors", config: str | None = None) -> ModelFiles:
    return ModelFiles(name="m", root=root, weights=tuple(weights), format=kind, config=config, tokenizer="")


def load(
    of: ModelFiles, backend: AttentionBackend, dtype: torch.dtype = torch.float32, load_format: str = "auto"
) -> Model:
    checkpoint = open_checkpoint(of, load_format)
    quant = choose_quantization(checkpoint.hf, checkpoint.index)
    survey(checkpoint.hf, checkpoint.index, dtype, backend, quant)  # as the runner does
    b = Build.root(checkpoint.index, dtype=dtype, backend=backend, quant=quant)
    model = build(checkpoint.hf, b)
    load_model(checkpoint, b)
    checkpoint.close()
    return model


class Driver:
    """Rows are named by any key; each step takes [(row, new tokens)] and returns all logits."""

    def __init__(
        self,
        model: Model,
        backend: AttentionBackend | None = None,
        *,
        page: int = 4,
        pages: int = 400,
        cache_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model, self.backend, self.page = model, backend or CPUAttention(), page
        self.caches = {
            spec.name: torch.full(self.backend.layout(spec, pages, page), 7.0, dtype=cache_dtype)
            for spec in model.cache_specs
        }
        self.free = list(range(1, pages))
        random.Random(0).shuffle(self.free)
        self.tables: dict[object, list[int]] = {}
        self.known: dict[object, int] = {}

    @torch.inference_mode()
    def step(self, work: list[tuple[object, list[int]]]) -> list[Tensor]:
        """Logits [tokens, vocab] of every row."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        starts, lengths = [0], []
        for row, new in work:
            begin = self.known.get(row, 0)
            end = self.known[row] = begin + len(new)
            table = self.tables.setdefault(row, [])
            while len(table) * self.page < end:
                table.append(self.free.pop())
            tokens += new
            positions += range(begin, end)
            slots += [table[p // self.page] * self.page + p % self.page for p in range(begin, end)]
            starts.append(len(tokens))
            lengths.append(end)
        wide = max(len(self.tables[row]) for row, _ in work)
        tables = [self.tables[row] + [0] * (wide - len(self.tables[row])) for row, _ in work]
        inputs = GroupInputs(
            lengths=torch.tensor(lengths, dtype=torch.int32),
            tables=torch.tensor(tables, dtype=torch.int32),
            slots=torch.tensor(slots),
        )
        f = Forward(
            tokens=torch.tensor(tokens),
            positions=torch.tensor(positions),
            row_start=torch.tensor(starts, dtype=torch.int32),
            logits_at=torch.arange(len(tokens)),
            groups=(inputs,) * (1 + max(spec.group for spec in self.model.cache_specs)),
            caches=self.caches,
            bounds=HostBounds(len(work), len(tokens), max(len(new) for _, new in work), max(lengths)),
        )
        prepare(self.backend, self.model.cache_specs, f)
        logits = self.model.logits(self.model.forward(f))
        return [logits[a:b] for a, b in pairwise(starts)]


def relative(got: Tensor, wanted: Tensor) -> float:
    """Largest absolute difference over the largest absolute value."""
    return float((got - wanted).abs().max() / wanted.abs().max())
