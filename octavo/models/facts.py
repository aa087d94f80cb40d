"""ModelFacts from a configuration and a tensor index, without building the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod

from octavo.core.errors import ArtefactError
from octavo.core.facts import ModelFacts, TensorInfo
from octavo.core.hf_config import HFConfig

_TORCH = {"F64": "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_KNOWN = ("float32", "float16", "bfloat16")
_STRETCHED = ("linear", "yarn")  # rope types whose factor is not in max_position_embeddings


def model_facts(hf: HFConfig, index: Mapping[str, TensorInfo]) -> ModelFacts:
    """ArtefactError where the configuration lacks what every model has."""
    stored = Counter[str]()
    for info in index.values():
        stored[info.dtype] += prod(info.shape)
    main = stored.most_common(1)[0][0] if stored else ""
    named = hf.raw("dtype", hf.raw("torch_dtype"))
    vocab = hf.integer("vocab_size")
    for key in ("eos_token_id", "bos_token_id"):
        if beyond := [token for token in hf.ids(key) if token >= vocab]:
            raise ArtefactError(
                f"{hf.source}: {key!r} {beyond[0]} lies outside the vocabulary of {vocab}",
                hint=f"set it with --hf-overrides to an id from 0 to {vocab - 1}",
                field=key,
            )
    return ModelFacts(
        architecture=hf.architecture,
        vocab_size=vocab,
        max_position=max_position(hf),
        num_layers=hf.integer("num_hidden_layers", high=4096),
        num_parameters=sum(stored.values()),
        dtype=named if named in _KNOWN else _TORCH.get(main, "float32"),
        quantization=_quantization(hf, main),
        eos_token_ids=hf.ids("eos_token_id"),
        bos_token_id=next(iter(hf.ids("bos_token_id")), None),
        sliding_window=hf.integer("sliding_window", None) if hf.flag("use_sliding_window", True) else None,
    )


def max_position(hf: HFConfig) -> int:
    """The longest context the checkpoint was made for, stretched rope included."""
    limit = hf.integer("max_position_embeddings")
    for key in ("rope_parameters", "rope_scaling"):
        if not hf.has(key):
            continue
        rope = hf.sub(key)
        if rope.raw("rope_type", rope.raw("type")) in _STRETCHED and rope.has("factor"):
            original = rope.integer("original_max_position_embeddings", limit)
            return max(limit, int(original * rope.number("factor", above=0)))
    return limit


def _quantization(hf: HFConfig, main: str) -> str | None:
    if hf.has("quantization_config"):
        return str(hf.sub("quantization_config").raw("quant_method", "unnamed"))
    return f"gguf {main}" if main and main not in _TORCH else None
