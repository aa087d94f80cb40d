"""Picks how projections are stored, from the checkpoint's own words."""

from __future__ import annotations

from collections.abc import Mapping

from octavo.core.errors import Unsupported
from octavo.core.facts import TensorInfo
from octavo.core.hf_config import HFConfig
from octavo.nn.protocols import Quantization
from octavo.quant.none import Plain

METHODS: tuple[type[Plain], ...] = (Plain,)


def choose_quantization(hf: HFConfig, index: Mapping[str, TensorInfo]) -> Quantization:
    """The first method that recognises the checkpoint. Unsupported names the one it asks for."""
    for method in METHODS:
        if (found := method.detect(hf, index)) is not None:
            return found
    asked = hf.sub("quantization_config").raw("quant_method", "unnamed")
    raise Unsupported(
        f"{hf.source}: quantization method {asked!r:.40} is not supported",
        hint="use the model's unquantized or GGUF files",
        field="quantization_config",
    )
