"""Inputs that no run has seen before, and outputs that nobody has written yet."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

NAME = "KERNEL_SEED"  # of the environment: runs the same inputs again


def session_seed() -> int:
    return int(os.environ.get(NAME) or int.from_bytes(os.urandom(4), "little"))


def sow(seed: int, test: str) -> None:
    """All random inputs of a test come from torch's generator (see `number`), whichever tests ran before."""
    torch.manual_seed(zlib.crc32(f"{seed} {test}".encode()))


def number() -> int:
    """A seed for numpy's generators."""
    return int(torch.randint(2**62, ()))


def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is asked for without contents holds NaN, or integers that are no index of anything:
    a kernel that leaves out a value, or reads one that nobody wrote, is seen."""
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, _poisoned(getattr(owner, name)))


def _poisoned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def made(*args: Any, **kwargs: Any) -> Tensor:
        return _spoil(make(*args, **kwargs))

    return made


def _spoil(t: Tensor) -> Tensor:
    if t.device.type == "meta" or not t.numel():
        return t
    with torch.no_grad():
        if t.dtype == torch.bool:
            t.fill_(True)
        elif t.dtype.is_floating_point and t.element_size() == 1:
            t.view(torch.uint8).fill_(0x7F)  # NaN in e4m3
        else:
            t.fill_(float("nan") if t.dtype.is_floating_point else torch.iinfo(t.dtype).max // 3)
    return t
