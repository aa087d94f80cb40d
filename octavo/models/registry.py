"""Architecture name -> model class, and the two ways of building one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from octavo.checkpoint.load import check_names
from octavo.core.errors import NotFound, Unsupported
from octavo.core.facts import TensorInfo
from octavo.core.hf_config import HFConfig
from octavo.core.registry import Registry
from octavo.models.blocks import Decoder
from octavo.nn.build import Build
from octavo.nn.protocols import AttentionBackend, CacheSpec, Quantization

MODELS: Registry[type[Decoder]] = Registry("model architecture", "octavo.models")


def build(hf: HFConfig, b: Build) -> Decoder:
    """The model config.json describes, its sinks registered with b and still empty.

    Unsupported names an architecture that is not known, and those that are.
    """
    name = hf.architecture
    try:
        kind = MODELS.get(name)
    except NotFound:
        raise Unsupported(
            f"{hf.source}: architecture {name!r:.80} is not supported",
            hint=f"known: {', '.join(MODELS.names())}",
            field="architectures",
        ) from None
    return kind(hf, b)


class Survey(NamedTuple):
    """What a model will need, found without allocating it. Bytes are exact."""

    specs: tuple[CacheSpec, ...]
    weight_bytes: int
    parameters: int
    hidden: int  # width of the residual stream
    widest: int  # widest activation row of a layer, in elements


def survey(
    hf: HFConfig,
    index: Mapping[str, TensorInfo],
    dtype: torch.dtype,
    backend: AttentionBackend,
    quant: Quantization,
) -> Survey:
    """Builds the model on torch's meta device and adds up what it asked for.

    ArtefactError where index and configuration disagree: found here, before a hostile
    configuration could make anyone allocate. An empty index (dummy weights) is not checked.
    """
    b = Build.root(index, dtype=dtype, device="meta", backend=backend, quant=quant)
    model = build(hf, b)
    if index:
        check_names(index, b, hf.source)
    spec = model.spec
    widest = max(2 * spec.intermediate, (spec.heads + 2 * spec.kv_heads) * spec.head_dim)
    return Survey(model.cache_specs, b.ledger.nbytes, b.ledger.parameters, spec.hidden, widest)
