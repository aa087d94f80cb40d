"""Picks how projections are stored: from the checkpoint's own words, or as asked while it is read."""

from __future__ import annotations

from collections.abc import Mapping

from octavo.core.errors import Unsupported
from octavo.core.facts import Platform, TensorInfo
from octavo.core.hf_config import HFConfig
from octavo.nn.protocols import Quantization
from octavo.quant.fp8 import Fp8, why_not_fp8
from octavo.quant.int8 import Int8, why_not_int8
from octavo.quant.none import Plain

METHODS: tuple[type[Plain] | type[Fp8], ...] = (Plain, Fp8)


def choose_quantization(
    hf: HFConfig,
    index: Mapping[str, TensorInfo],
    asked: str | None = None,
    platform: Platform | None = None,
) -> Quantization:
    """The first method that recognises the checkpoint; a plain one is rounded as `asked`: "fp8", "int8".

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
    if asked == "int8":
        return _int8(found, hf, platform)
    wanted = asked == "fp8"
    if wanted and isinstance(found, Plain):
        found = Fp8(stored=False)
    why = None if platform is None else why_not_fp8(platform)
    if isinstance(found, Fp8) and why is not None:
        source = "quantization='fp8'" if wanted else f"{hf.source}: stored in fp8"
        remedy = "use --quantization int8" if wanted and _on_cpu(platform) else "use the unquantized model"
        raise Unsupported(f"{source}: {why}", hint=remedy, field="quantization")
    return found


def _int8(found: Quantization, hf: HFConfig, platform: Platform | None) -> Int8:
    if not isinstance(found, Plain):
        raise Unsupported(
            f"quantization='int8': {hf.source} stores its weights in {found.name} already",
            hint="leave quantization out, or use the unquantized model",
            field="quantization",
        )
    if platform is not None and (why := why_not_int8(platform)) is not None:
        raise Unsupported(
            f"quantization='int8': {why}",
            hint="use --quantization fp8, or leave it out",
            field="quantization",
        )
    return Int8()


def _on_cpu(platform: Platform | None) -> bool:
    return platform is not None and platform.kind == "cpu"
