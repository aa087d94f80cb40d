"""A CudaDevice around the tiny model: on the GPU, or through Triton's interpreter with its eager code."""

from __future__ import annotations

from typing import Any

import torch

from octavo.attention.torch_ref import TorchRef
from octavo.nn.protocols import AttentionBackend
from octavo.runner.cache import Caches, lay_out
from octavo.runner.cuda.device import CudaDevice
from tests.cpu.runner.tiny import LENGTH, PAGE, PAGES, Rig, tiny_model


def cuda_rig(
    seed: int = 0, rows: int = 8, backend: AttentionBackend | None = None, budget: int = 128, **changes: Any
) -> Rig:
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, plain = tiny_model(seed, backend=backend or TorchRef(), device=where, **changes)
    layout = lay_out(model.cache_specs, plain, PAGE, torch.float32)
    caches = Caches(layout, PAGES, torch.float32, where)
    device = CudaDevice(
        model, plain, layout, caches, rows=rows, length=LENGTH, budget=budget, device=where, eager=True
    )
    return Rig(device, model, plain)
