"""One or more safetensors files as a checkpoint; memory-mapped, cast when read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from octavo.core.errors import ArtefactError, Unsupported
from octavo.core.facts import TensorInfo
from octavo.core.hf_config import HFConfig

_WIDTH = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # what can be cast to the model's dtype
_EIGHT = "F8_E4M3"  # means nothing without its scale: only goes where it stays as it is


class SafetensorsCheckpoint:
    anything = False

    def __init__(self, hf: HFConfig, files: Sequence[str]) -> None:
        self.hf = hf
        index: dict[str, TensorInfo] = {}
        self.index: Mapping[str, TensorInfo] = index
        self._where: dict[str, tuple[str, Any]] = {}
        for path in files:
            with _sound(path):
                self._open(path, index)

    def _open(self, path: str, index: dict[str, TensorInfo]) -> None:
        # the library checks the header against the file: lengths, offsets, overlaps, truncation
        handle: Any = safe_open(path, framework="pt")
        for name in handle.keys():  # noqa: SIM118 - the handle is no mapping
            if name in self._where:
                raise ArtefactError(
                    f"{path}: tensor {name} is also in {self._where[name][0]}",
                    hint="remove the file that does not belong to the model",
                )
            part = handle.get_slice(name)
            kind, shape = part.get_dtype(), tuple(part.get_shape())
            index[name] = TensorInfo(kind, shape, prod(shape) * _WIDTH.get(kind, 1))
            self._where[name] = (path, handle)

    def read(self, name: str, into: Tensor) -> None:
        path, handle = self._where[name]
        kind = self.index[name].dtype
        if kind not in _WIDTH and not (kind == _EIGHT and into.dtype == torch.float8_e4m3fn):
            raise Unsupported(
                f"{path}: tensor {name} has type {kind}, which is not supported",
                hint=f"fetch an unquantized version; known: {', '.join(_WIDTH)}",
                field="model",
            )
        with _sound(path):
            into.copy_(handle.get_tensor(name))

    def close(self) -> None:
        self._where.clear()


@contextmanager
def _sound(path: str) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise ArtefactError(
            f"{path} is not a sound safetensors file: {error}", hint="download the file again"
        ) from error
