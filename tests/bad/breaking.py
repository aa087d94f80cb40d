"""Ways of breaking a sound model folder. Each returns a function of the folder."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.bad.sound import write_gguf

Break = Callable[[Path], Any]

SAFETENSORS, GGUF, INDEX = "model.safetensors", "m.gguf", "model.safetensors.index.json"


def nothing(folder: Path) -> None:
    """The folder is sound; a setting is not."""


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def only_gguf(folder: Path) -> None:
    empty(folder)
    write_gguf(folder / GGUF)


def both(*steps: Break) -> Break:
    return lambda folder: [step(folder) for step in steps]


def remove(name: str) -> Break:
    return lambda folder: (folder / name).unlink()


def rename(old: str, new: str) -> Break:
    return lambda folder: (folder / old).rename(folder / new)


def link(name: str, target: str) -> Break:
    return lambda folder: (folder / name).symlink_to(target)


def copy(old: str, new: str) -> Break:
    return lambda folder: (folder / new).write_bytes((folder / old).read_bytes())


def write(name: str, data: Any) -> Break:
    """Text and bytes as they are, anything else as JSON."""
    text = data if isinstance(data, str | bytes) else json.dumps(data)
    return lambda folder: (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def swell(name: str, mebibytes: int) -> Break:
    """Made large by a hole at its end, which takes no room."""
    return lambda folder: os.truncate(folder / name, mebibytes << 20)


def cut(name: str, keep: float) -> Break:
    """Keeps a share of the file; a negative number is so many bytes less."""

    def do(folder: Path) -> None:
        size = (folder / name).stat().st_size
        os.truncate(folder / name, int(size + keep if keep < 0 else size * keep))

    return do


def amend(name: str, **values: Any) -> Break:
    """Changes keys of a JSON file; ... takes one away."""

    def do(folder: Path) -> None:
        path = folder / name
        merged = {**json.loads(path.read_text()), **values}
        path.write_text(json.dumps({key: value for key, value in merged.items() if value is not ...}))

    return do


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Break:
    """Other weights, in a safetensors file that is sound as such."""

    def do(folder: Path) -> None:
        found = load_file(folder / SAFETENSORS)
        change(found)
        save_file(found, folder / SAFETENSORS)

    return do


def header(name: str, **values: Any) -> Break:
    """Rewrites one tensor's entry in the header of the safetensors file, however wrong it becomes."""

    def do(folder: Path) -> None:
        path = folder / SAFETENSORS
        data = path.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        head = json.loads(data[8:end])
        head[name].update(values)
        text = json.dumps(head).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[end:])

    return do


def shards(*names: str) -> Break:
    """An index that names these files."""
    return write(INDEX, {"weight_map": {f"t{at}": name for at, name in enumerate(names)}})
