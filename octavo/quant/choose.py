"""Picks how projections are stored: from the checkpoint's own words, or as asked while it is read."""

from __future__ import annotations

from collections.abc import Mapping

from octavo.core.errors import Unsupported
from octavo.core.facts import Platform, TensorInfo
from octavo.core.hf_config import HFConfig
from octavo.nn.protocols import Quantization
from octavo.quant.fp8 import Fp8, why_not_fp8
from octavo.quant.none import Plain

METHODS: tuple[type[Plain] | type[Fp8], ...] = (Plain, Fp8)


def choose_quantization(
    hf: HFConfig,
    index: Mapping[str, TensorInfo],
    asked: str | None = None,
    platform: Platform | None = None,
) -> Quantization:
    """The first method that recognises the checkpoint; a plain one is rounded where `asked` is "fp8".

    Unsupported names what the checkpoint asks for, or why the device cannot.
    """
    for method in METHODS:
        if (found := method.detect(hf, index)) is not None:
            return _as_asked(found, hf, asked, platform)
    stored = hf.sub("quantization_config").raw("quant_method", "unnamed")
    raise Unsupported(
        f"{hf.source}: quantization method {stored!r:.40} is not supported",
        hint="use the model's unquantized or GGUF files",
        field="quantization_config",
    )


def _as_asked(
    found: Quantization, hf: HFConfig, asked: str | None, platform: Platform | None
) -> Quantization:
    wanted = asked == "fp8"
    if wanted and isinstance(found, Plain):
        found = Fp8(stored=False)
    why = None if platform is None else why_not_fp8(platform)
    if isinstance(found, Fp8) and why is not None:
        source = "quantization='fp8'" if wanted else f"{hf.source}: stored in fp8"
        raise Unsupported(f"{source}: {why}", hint="use the unquantized model", field="quantization")
    return found
