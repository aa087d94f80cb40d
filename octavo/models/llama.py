"""Llama 2 and 3 and what shares their shape: SmolLM, SmolLM2, TinyLlama, Yi."""

from __future__ import annotations

from octavo.models.blocks import Decoder
from octavo.models.registry import MODELS


@MODELS.register("LlamaForCausalLM")
class Llama(Decoder):
    pass
