"""From host arrays to the device without waiting."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def upload(array: NDArray[Any], to: torch.device | Tensor) -> Tensor:
    """A copy on the device, or at the beginning of a tensor there. On a GPU through pinned memory of its
    own: torch keeps that until the copy is through, so the caller may forget it."""
    device = to if isinstance(to, torch.device) else to.device
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    host = torch.empty(array.shape, dtype=dtype, pin_memory=device.type == "cuda")
    host.numpy()[...] = array
    if isinstance(to, torch.device):
        return host.to(device, non_blocking=True)
    return to[: len(array)].copy_(host, non_blocking=True)
