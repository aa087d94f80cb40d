"""Qwen2 and Qwen2.5: biased qkv, a window in the upper layers if asked. Qwen3: normed heads."""

from __future__ import annotations

from octavo.core.errors import ArtefactError
from octavo.core.hf_config import HFConfig
from octavo.models.blocks import Decoder, DecoderSpec
from octavo.models.registry import MODELS

_TYPES = ("full_attention", "sliding_attention")


def _windows(hf: HFConfig) -> tuple[int, ...]:
    """One window a layer: `layer_types` where given, else the layers from max_window_layers on."""
    layers = hf.integer("num_hidden_layers", high=4096)
    if not hf.flag("use_sliding_window", False) or not hf.has("sliding_window"):
        return (0,) * layers
    window = hf.integer("sliding_window")
    kinds = hf.raw("layer_types")
    if kinds is None:
        first = hf.integer("max_window_layers", layers, low=0)
        return tuple(window if i >= first else 0 for i in range(layers))
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise ArtefactError(
            f"{hf.source}: 'layer_types' does not name {layers} layers",
            hint=f"expected a list of {layers}, each {' or '.join(_TYPES)}",
            field="layer_types",
        )
    for kind in kinds:
        if kind not in _TYPES:
            raise ArtefactError(
                f"{hf.source}: 'layer_types' holds {kind!r:.40}",
                hint=f"expected {' or '.join(_TYPES)}",
                field="layer_types",
            )
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


@MODELS.register("Qwen2ForCausalLM")
class Qwen2(Decoder):
    @staticmethod
    def read(hf: HFConfig) -> DecoderSpec:
        return DecoderSpec.read(hf, qkv_bias=True, out_bias=False, windows=_windows(hf))


@MODELS.register("Qwen3ForCausalLM")
class Qwen3(Decoder):
    @staticmethod
    def read(hf: HFConfig) -> DecoderSpec:
        return DecoderSpec.read(hf, qk_norm=True, windows=_windows(hf))
