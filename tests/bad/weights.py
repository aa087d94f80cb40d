"""Safetensors files that are cut, lie about themselves, or hold other weights than the model's."""

from __future__ import annotations

import struct
from typing import Any

import torch

from octavo.core.errors import Unsupported
from tests.bad.breaking import SAFETENSORS, Break, cut, header, tensors, write
from tests.bad.row import Row, artefact

NORM, UP = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"
HEADERS = {
    "is endless": struct.pack("<Q", 1 << 60) + b"{}",
    "is longer than the file": struct.pack("<Q", 1000) + b"{}",
    "is no JSON": struct.pack("<Q", 4) + b"abcd",
    "is a list": struct.pack("<Q", 2) + b"[]",
    "is nested": struct.pack("<Q", 90_000) + b"[" * 90_000,
    "is a pickle's": b"\x80\x04\x95" + bytes(60),
}
ENTRIES: list[dict[str, Any]] = [
    {"shape": [1 << 62, 1 << 62]},
    {"shape": [33]},
    {"shape": [-32]},
    {"dtype": "F9"},
    {"data_offsets": [1 << 40, (1 << 40) + 128]},
    {"data_offsets": [0, 128]},
    {"data_offsets": [128, 0]},
]


def unsound(name: str, breaks: Break) -> Row:
    says = (SAFETENSORS, "is not a sound safetensors file")
    return artefact(f"safetensors {name}", breaks, "model", says, "download the file again")


def retyped(kind: torch.dtype) -> Row:
    change = tensors(lambda held: held.update({NORM: held[NORM].to(kind)}))
    says, remedy = (SAFETENSORS, f"{NORM} has type"), "known: F64, F32, F16, BF16"
    return artefact(f"weights of {kind}", change, "model", says, remedy, kind=Unsupported)


WEIGHTS = [
    *(unsound(f"cut: {keep}", cut(SAFETENSORS, keep)) for keep in (0, 0.0001, 0.01, 0.04, 0.5, -1)),
    *(unsound(f"whose header {how}", write(SAFETENSORS, data)) for how, data in HEADERS.items()),
    *(unsound(f"with {entry}", header(NORM, **entry)) for entry in ENTRIES),
    *(retyped(kind) for kind in (torch.int32, torch.bool, torch.float8_e4m3fn)),
    artefact(
        "a tensor less", tensors(lambda held: held.pop(UP)), "model", f"lacks {UP}", "fetch the model again"
    ),
    artefact(
        "many tensors less",
        tensors(lambda held: [held.pop(name) for name in list(held) if "layers.1" in name]),
        "model",
        ("lacks model.layers.1", "and 4 more"),
        "fetch the model again",
    ),
    artefact(
        "a tensor nobody wants",
        tensors(lambda held: held.update({"model.extra.weight": torch.ones(3)})),
        "model",
        "no place for model.extra.weight",
        "fetch both again",
    ),
    artefact(
        "a tensor lying down",
        tensors(lambda held: held.update({UP: held[UP].T.contiguous()})),
        "model",
        f"{UP} has shape (32, 48), the configuration asks for (48, 32)",
        "fetch both again",
    ),
]
