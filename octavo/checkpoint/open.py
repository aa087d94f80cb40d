"""ModelFiles -> an opened checkpoint, whatever the format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from octavo.checkpoint.dummy import DummyCheckpoint
from octavo.checkpoint.gguf import GGUFCheckpoint
from octavo.checkpoint.safetensors import SafetensorsCheckpoint
from octavo.core.errors import ArtefactError
from octavo.core.facts import ModelFiles
from octavo.core.hf_config import HFConfig
from octavo.nn.protocols import Checkpoint


def open_checkpoint(
    files: ModelFiles,
    load_format: str = "auto",
    *,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Checkpoint:
    """Reads headers only. `overrides` are laid over the configuration (hf_overrides).

    ArtefactError for files that are broken or of a format that is not read here.
    """
    kind = files.format if load_format == "auto" else load_format
    if kind != "dummy" and not files.weights:
        raise ArtefactError(f"{files.root} holds no weights", hint=_wanted(Path(files.root)))
    if kind == "gguf":
        checkpoint: Checkpoint = GGUFCheckpoint(files.weights[0])
    elif kind == "dummy":
        checkpoint = DummyCheckpoint(_config(files), seed)
    else:
        checkpoint = SafetensorsCheckpoint(_config(files), files.weights)
    if overrides:
        checkpoint.hf = checkpoint.hf.overlaid(overrides)
    return checkpoint


def stream(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its Hugging Face name, dequantised to dtype."""
    for name, info in checkpoint.index.items():
        into = torch.empty(info.shape, dtype=dtype)
        checkpoint.read(name, into)
        yield name, into


def _config(files: ModelFiles) -> HFConfig:
    if files.config is None:
        if files.format == "gguf":
            checkpoint = GGUFCheckpoint(files.weights[0])
            checkpoint.close()
            return checkpoint.hf
        raise ArtefactError(f"{files.root} has no config.json", hint="a model folder needs one")
    return HFConfig.load(Path(files.config))


def _wanted(root: Path) -> str:
    if root.is_dir() and any(root.glob("*.bin")):
        return "it has .bin files, which are never read: convert them to safetensors"
    return "safetensors or GGUF files are needed"
