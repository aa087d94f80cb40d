"""A whole step through a backend that is told its rows on the host. Imports no triton."""

from __future__ import annotations

import torch

from octavo.attention.flashinfer import FlashInferAttention
from octavo.nn.forward import Forward, GroupInputs, HostBounds, HostRows
from octavo.nn.protocols import AttnLayer, CacheSpec
from tests.kernels.attention_case import Case

# rows that decode first; a count of 0 among them: one that ended on the device, unknown to the host
MIXED = [(1, 33), (0, 0), (1, 7), (5, 5), (20, 47), (3, 19), (2, 2)]
CHUNKS = [(5, 5), (20, 47), (17, 17)]


def host_of(case: Case) -> HostRows:
    counts = torch.tensor([max(count, 1) for count, _ in case.rows])
    lengths = torch.tensor([max(length, 1) for _, length in case.rows])
    owners = case.owners[: len(case.rows)].cpu()
    return HostRows(owners.numpy(), (lengths - counts).numpy(), counts.numpy(), (case.tables.cpu().numpy(),))


def attend(backend: FlashInferAttention, case: Case, host: HostRows | None) -> torch.Tensor:
    spec = CacheSpec("layer", case.kv_heads, case.d, "window" if case.window else "full", case.window)
    inputs = GroupInputs(case.lengths, case.tables, case.slots())
    began = [length > count for count, length in case.rows if count > 1]
    f = Forward(
        inputs.slots, inputs.slots, case.row_start, inputs.slots, (inputs,), {"layer": case.cache},
        HostBounds(len(case.owners), len(case.q), max(c for c, _ in case.rows), 100, fresh=not all(began), later=any(began)),
        owners=case.owners, host=host,
    )  # fmt: skip
    meta = backend.plan(spec, f.bounds)
    backend.prepare(f, meta)
    layer = AttnLayer(case.scale, case.window, case.softcap)
    return [backend.run(case.q, None, None, case.cache, meta, layer) for _ in range(2)][1]
