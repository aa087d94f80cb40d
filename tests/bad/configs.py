"""Values of config.json and generation_config.json, and what is laid over them."""

from __future__ import annotations

from typing import Any

from octavo.core.errors import Unsupported, UserError
from tests.bad.breaking import amend, nothing, swell, write
from tests.bad.row import artefact
from tests.bad.sound import VOCAB

INTEGER, FETCH = "an integer in [1,", "fetch the file again"
QWEN = {"architectures": ["Qwen3ForCausalLM"], "use_sliding_window": True, "sliding_window": 8}

# (values of config.json, field, what is said, remedy)
WRONG: list[tuple[dict[str, Any], str, str, str]] = [
    ({"architectures": ...}, "architectures", "'architectures' is None", "a list with one class name"),
    ({"architectures": []}, "architectures", "'architectures' is []", "a list with one class name"),
    ({"architectures": "Llama"}, "architectures", "is 'Llama'", "a list with one class name"),
    ({"vocab_size": ...}, "vocab_size", "lacks 'vocab_size'", "--hf-overrides"),
    ({"vocab_size": 0}, "vocab_size", "'vocab_size' is 0", INTEGER),
    ({"vocab_size": "264"}, "vocab_size", "is '264'", INTEGER),
    ({"vocab_size": True}, "vocab_size", "is True", INTEGER),
    ({"vocab_size": 128}, "eos_token_id", "263 lies outside the vocabulary of 128", "from 0 to 127"),
    ({"vocab_size": VOCAB + 8}, "model", "has shape (264, 32), the configuration asks", "fetch both again"),
    ({"hidden_size": 31.5}, "hidden_size", "'hidden_size' is 31.5", INTEGER),
    ({"hidden_size": 1 << 40}, "hidden_size", "is 1099511627776", "[1, 16777216]"),
    ({"hidden_size": 1 << 23}, "model", "the configuration asks for (264, 8388608)", "fetch both again"),
    ({"intermediate_size": 49}, "model", "has shape (48, 32), the configuration asks", "fetch both again"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers", "is 1000000000", "[1, 4096]"),
    ({"num_hidden_layers": 3}, "model", "lacks model.layers.2", "fetch the model again"),
    ({"num_hidden_layers": 1}, "model", "no place for model.layers.1", "fetch both again"),
    ({"num_attention_heads": "4"}, "num_attention_heads", "is '4'", INTEGER),
    ({"num_key_value_heads": 3}, "num_key_value_heads", "4 heads do not divide by 3", "--hf-overrides"),
    ({"head_dim": 7}, "head_dim", "cannot turn 7 of head_dim 7", "an even number up to head_dim"),
    ({"hidden_act": "relu"}, "hidden_act", "'hidden_act' is 'relu'", "silu"),
    ({"hidden_act": []}, "hidden_act", "'hidden_act' is []", "silu"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps", "is nan", "a finite number"),
    ({"rms_norm_eps": float("inf")}, "rms_norm_eps", "is inf", "a finite number"),
    ({"rms_norm_eps": -1.0}, "rms_norm_eps", "is -1.0", "a number above 0"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings", "is 'yes'", "true or false"),
    ({"tie_word_embeddings": False}, "model", "lacks lm_head.weight", "fetch the model again"),
    ({"max_position_embeddings": 0}, "max_position_embeddings", "is 0", INTEGER),
    ({"eos_token_id": "end"}, "eos_token_id", "is 'end'", "a token id or a list"),
    ({"eos_token_id": [-1]}, "eos_token_id", "is [-1]", "a token id or a list"),
    ({"bos_token_id": 999}, "bos_token_id", "999 lies outside the vocabulary of 264", "from 0 to 263"),
    ({"rope_theta": -1.0}, "rope_theta", "is -1.0", "a number above 1"),
    ({"partial_rotary_factor": 0.0}, "partial_rotary_factor", "is 0.0", "a number above 0"),
    ({"rope_parameters": [1]}, "rope_parameters", "is [1]", "an object"),
    ({"rope_scaling": {"rope_type": "linear"}}, "factor", "rope_scaling lacks 'factor'", "--hf-overrides"),
    ({"rope_scaling": {"type": "linear", "factor": 0.0}}, "factor", "'factor' is 0.0", "a number above 0"),
    ({"quantization_config": 4}, "quantization_config", "is 4", "an object"),
    ({**QWEN, "layer_types": ["full_attention"]}, "layer_types", "does not name 2 layers", "a list of 2"),
    ({**QWEN, "layer_types": ["full_attention", "up"]}, "layer_types", "holds 'up'", "sliding_attention"),
    (
        {"architectures": ["MistralForCausalLM"], "sliding_window": -5},
        "sliding_window",
        "'sliding_window' is -5",
        INTEGER,
    ),
]
UNKNOWN: list[tuple[dict[str, Any], str, str, str]] = [
    ({"architectures": ["GPT9LMHeadModel"]}, "architectures", "'GPT9LMHeadModel'", "known: LlamaForCausalLM"),
    ({"rope_scaling": {"rope_type": "longrope"}}, "rope_type", "rope type 'longrope'", "known: default"),
    ({"rope_scaling": {"rope_type": {}}}, "rope_type", "rope type {}", "known: default"),
    ({"quantization_config": {"quant_method": "awq"}}, "quantization_config", "'awq'", "GGUF files"),
    ({"quantization_config": {}}, "quantization_config", "'unnamed'", "GGUF files"),
]
UNREADABLE = [
    ("empty", "", "is not readable JSON"),
    ("cut off", '{"vocab_size": 26', "is not readable JSON"),
    ("a list", "[]", "holds list, not an object"),
    ("not UTF-8", b"\xff\xfe{}", "is not readable JSON"),
    ("endlessly nested", '{"a":' * 100_000, "is nested too deeply"),
    ("a number too long", '{"vocab_size": ' + "9" * 5000 + "}", "is not readable JSON"),
]
VLLM, GENERATION, OVERRIDES = "--generation-config vllm", "generation_config", "override_generation_config"

# (generation_config.json, field, what is said, remedy)
SAMPLING: list[tuple[Any, str, str, str]] = [
    ("{", "model", "is not readable JSON", FETCH),
    ([], "model", "holds list", FETCH),
    ({"temperature": "hot"}, "temperature", "temperature is text", VLLM),
    ({"top_p": 7}, "top_p", "top_p is 7", VLLM),
    ({"eos_token_id": {}}, "eos_token_id", "'eos_token_id' is {}", "a token id or a list"),
    (
        {"eos_token_id": [263, 5000]},
        "eos_token_id",
        "5000 lies outside the vocabulary of 264",
        "from 0 to 263",
    ),
]
ABSURD = {"hidden_size": 1 << 22, "intermediate_size": 1 << 22, "num_attention_heads": 1 << 14}

CONFIGS = [
    *(
        artefact(
            f"config.json {str(values)[-90:]}",
            amend("config.json", **values),
            field,
            ("config.json", says),
            remedy,
        )
        for values, field, says, remedy in WRONG
    ),
    *(
        artefact(
            f"config.json {str(values)[-90:]}",
            amend("config.json", **values),
            field,
            ("config.json", says),
            remedy,
            kind=Unsupported,
        )
        for values, field, says, remedy in UNKNOWN
    ),
    *(
        artefact(f"config.json {how}", write("config.json", data), "model", ("config.json", says), FETCH)
        for how, data, says in UNREADABLE
    ),
    artefact("a huge config.json", swell("config.json", 9), "model", "json is larger than 8 MiB", FETCH),
    *(
        artefact(
            f"{GENERATION} {data!r:.40}", write(f"{GENERATION}.json", data), field, (GENERATION, says), remedy
        )
        for data, field, says, remedy in SAMPLING
    ),
    *(
        artefact(f"hf_overrides {given}", nothing, field, says, remedy, hf_overrides=given)
        for given, field, says, remedy in (
            ({"num_attention_heads": "x"}, "num_attention_heads", "'num_attention_heads' is 'x'", INTEGER),
            ({"intermediate_size": 64}, "model", "the configuration asks for (64, 32)", "disagree"),
        )
    ),
    artefact(
        "hf_overrides that are no object",
        nothing,
        "hf_overrides",
        "--hf-overrides cannot be",
        "JSON object",
        kind=UserError,
        hf_overrides="[1]",
    ),
    artefact(
        "an int8 cache without the native kernels",
        nothing,
        "kv_cache_dtype",
        ("needs the native kernels", "block size of 8"),
        "auto, float32, bfloat16",
        kind=UserError,
        kv_cache_dtype="int8",
        block_size=8,
    ),
    artefact(
        "an fp8 cache on a CPU",
        nothing,
        "kv_cache_dtype",
        "no such cache on cpu",
        "use int8",
        kind=UserError,
        kv_cache_dtype="fp8",
    ),
    artefact(
        "sizes that no machine has",
        amend("config.json", **ABSURD, num_key_value_heads=1),
        "model",
        ("this model needs", "GiB are free"),
        "a smaller model",
        kind=UserError,
        load_format="dummy",
    ),
    artefact(
        "a generation_config elsewhere",
        nothing,
        GENERATION,
        "nowhere/generation_config.json does not exist",
        "auto, vllm or a folder",
        kind=UserError,
        generation_config="./nowhere",
    ),
    *(
        artefact(
            f"{OVERRIDES} {given}", nothing, OVERRIDES, says, remedy, kind=UserError, **{OVERRIDES: given}
        )
        for given, says, remedy in (
            ({"warmth": 1}, "no field 'warmth'", "known: temperature"),
            ({"temperature": 9}, "temperature is 9", "at most 2"),
        )
    ),
]
