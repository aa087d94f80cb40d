"""Mistral 7B: Llama with one sliding window for all layers in its first version."""

from __future__ import annotations

from octavo.core.hf_config import HFConfig
from octavo.models.blocks import Decoder, DecoderSpec
from octavo.models.registry import MODELS


@MODELS.register("MistralForCausalLM")
class Mistral(Decoder):
    @staticmethod
    def read(hf: HFConfig) -> DecoderSpec:
        window = hf.integer("sliding_window", 0)
        return DecoderSpec.read(hf, windows=(window,) * hf.integer("num_hidden_layers", high=4096))
