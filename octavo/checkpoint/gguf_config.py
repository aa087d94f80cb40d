"""GGUF metadata -> a configuration in the shape of config.json. Torch-free."""

from __future__ import annotations

from array import array
from typing import Any

from octavo.checkpoint.gguf_header import REMEDY, GGUFHeader, GGUFTensor
from octavo.core.errors import ArtefactError, Unsupported
from octavo.core.hf_config import HFConfig

_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
ROPE_FACTORS = "rope_freqs.weight"
_MOST_FACTORS = 1 << 16  # bytes

# rope.scaling.<name> -> config.json's name
_SCALING = {
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "attn_factor": "attention_factor",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}


def config_from_gguf(header: GGUFHeader) -> HFConfig:
    """ArtefactError where a key is missing or odd; Unsupported for an unknown architecture."""
    return HFConfig(_Metadata(header).config(), header.source)


def permutes_heads(header: GGUFHeader) -> bool:
    """Whether the writer stored q and k with the halves of each head interleaved."""
    return header.metadata.get("general.architecture") == "llama"


class _Metadata:
    def __init__(self, header: GGUFHeader) -> None:
        self.header = header
        name = header.metadata.get("general.architecture")
        if not isinstance(name, str) or name not in _CLASSES:
            raise Unsupported(
                f"{header.source}: architecture {name!r:.60} is not supported in GGUF files",
                hint=f"known: {', '.join(sorted(_CLASSES))}",
                field="general.architecture",
            )
        self.name = name

    def config(self) -> dict[str, Any]:
        heads = self.one("attention.head_count")
        head_dim = self.one("attention.key_length", self.one("embedding_length") // max(heads, 1))
        if self.one("attention.value_length", head_dim) != head_dim:
            raise Unsupported(
                f"{self.header.source}: keys of size {head_dim} and values of another",
                hint="this architecture has them of one size: use the safetensors files",
                field=f"{self.name}.attention.value_length",
            )
        window = self.one("attention.sliding_window", 0)
        embedding = self.tensor("token_embd.weight")
        return {
            "architectures": [
                "MistralForCausalLM" if window and self.name == "llama" else _CLASSES[self.name]
            ],
            "hidden_size": self.one("embedding_length"),
            "num_hidden_layers": self.one("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": self.one("attention.head_count_kv", heads),
            "head_dim": head_dim,
            "intermediate_size": self.one("feed_forward_length"),
            "vocab_size": embedding.shape[0],
            "max_position_embeddings": self.one("context_length"),
            "rms_norm_eps": self.one("attention.layer_norm_rms_epsilon"),
            "hidden_act": "silu",
            "tie_word_embeddings": "output.weight" not in self.header.tensors,
            "attention_bias": "blk.0.attn_output.bias" in self.header.tensors,
            "mlp_bias": "blk.0.ffn_gate.bias" in self.header.tensors,
            "sliding_window": window or None,
            "use_sliding_window": bool(window),
            "rope_parameters": self.rope(head_dim),
            "bos_token_id": self.token("bos"),
            "eos_token_id": self.ends(),
            "dtype": None if embedding.type not in ("F32", "F16", "BF16") else _TORCH[embedding.type],
        }

    def one(self, key: str, default: Any = None) -> Any:
        """A scalar of this architecture; a per-layer array must hold one value."""
        value = self.header.metadata.get(f"{self.name}.{key}", default)
        if isinstance(value, array) and len(set(value)) == 1:
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, int | float):
            what = "lacks" if value is None else "has an unsupported"
            raise ArtefactError(
                f"{self.header.source} {what} {self.name}.{key}", hint=REMEDY, field=f"{self.name}.{key}"
            )
        return value

    def tensor(self, name: str) -> GGUFTensor:
        if name not in self.header.tensors:
            raise ArtefactError(f"{self.header.source} lacks the tensor {name}", hint=REMEDY)
        return self.header.tensors[name]

    def token(self, kind: str) -> int | None:
        value = self.header.metadata.get(f"tokenizer.ggml.{kind}_token_id")
        return value if isinstance(value, int) else None

    def ends(self) -> list[int]:
        """Every token that ends an answer: of the text, of the turn, of a message."""
        found = (self.token(kind) for kind in ("eos", "eot", "eom"))
        return list(dict.fromkeys(token for token in found if token is not None))

    def rope(self, head_dim: int) -> dict[str, Any]:
        rope: dict[str, Any] = {
            "rope_theta": float(self.one("rope.freq_base", 10000.0)),
            "rope_type": "default",
        }
        turned = self.one("rope.dimension_count", head_dim)
        if turned != head_dim:
            rope["partial_rotary_factor"] = turned / max(head_dim, 1)
        if ROPE_FACTORS in self.header.tensors:
            return rope | {"rope_type": "factors", "factors": self.factors()}
        kind = self.header.metadata.get(f"{self.name}.rope.scaling.type", "none")
        if kind != "none":
            rope["rope_type"] = kind
            for theirs, ours in _SCALING.items():
                if f"{self.name}.rope.scaling.{theirs}" in self.header.metadata:
                    rope[ours] = self.one(f"rope.scaling.{theirs}")
        return rope

    def factors(self) -> list[float]:
        tensor = self.header.tensors[ROPE_FACTORS]
        if tensor.type != "F32" or tensor.nbytes > _MOST_FACTORS:
            raise ArtefactError(
                f"{self.header.source}: {ROPE_FACTORS} is {tensor.type} of {tensor.nbytes} bytes, "
                f"not F32 of at most {_MOST_FACTORS}",
                hint=REMEDY,
            )
        with open(self.header.source, "rb") as file:
            file.seek(tensor.offset)
            return array("f", file.read(tensor.nbytes)).tolist()


_TORCH = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
