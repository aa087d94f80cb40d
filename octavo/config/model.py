"""Which model, and how it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from octavo.config.option import option


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    model: str | None = option(
        None, "Hugging Face id, local folder or .gguf file; none: the default model, SmolLM2-135M-Instruct"
    )
    served_model_name: tuple[str, ...] = option(
        (), "names the API answers to; the first is used in replies", kind="list", serve_only=True
    )
    tokenizer: str | None = option(None, "tokenizer id or folder, when not the model's own")
    skip_tokenizer_init: bool = option(False, "work with token ids only")
    revision: str | None = option(None, "branch, tag or commit on the hub; holds for every file")
    hf_token: str | None = option(
        None, "access token for gated repositories (default: HF_TOKEN)", secret=True
    )
    download_dir: str | None = option(None, "where hub files are kept (default: HF_HOME)", kind="path")
    dtype: str = option(
        "auto",
        "arithmetic of weights and activations; auto: bfloat16 where the device is fast at it, else float32; "
        "given on a CPU, a GGUF file's blocks are widened to it",
        choices=("auto", "float32", "float", "bfloat16", "float16", "half"),
    )
    load_format: str = option(
        "auto", "how weights are read; dummy: random ones", choices=("auto", "safetensors", "gguf", "dummy")
    )
    quantization: str | None = option(
        None,
        "fp8: projections are rounded to 8 bits while they are read, on GPUs; int8: all matrices are, on "
        "CPUs; gguf: a CPU computes with the file's own blocks, whatever the model's size",
        choices=("fp8", "int8", "gguf"),
    )
    max_model_len: int | None = option(
        None,
        "longest prompt plus output in tokens; none: what the model and memory allow",
        low=1,
        kind="size",
    )
    seed: int = option(0, "engine seed: draws the seeds of requests that bring none (offline only)", low=0)
    chat_template: str | None = option(None, "Jinja template (file or text) instead of the model's own")
    generation_config: str = option(
        "auto", "auto: defaults from the model's generation_config.json; vllm: neutral defaults; or a folder"
    )
    override_generation_config: dict[str, Any] | None = option(
        None, "JSON object of sampling defaults laid over generation_config", kind="json"
    )
    hf_overrides: dict[str, Any] | None = option(None, "JSON object laid over config.json", kind="json")
    trust_remote_code: bool = option(
        False, "accepted for compatibility; Octavo never runs code of a checkpoint"
    )
    max_logprobs: int = option(
        20, "most alternatives a request may ask for; -1: the whole vocabulary", low=-1
    )
    attention_backend: str = option(
        "auto",
        "what computes attention; triton: our kernels, on GPUs; flashinfer: beside them FlashInfer's for "
        "prompts and chunks, where flashinfer-python is installed; cpu, torch_ref: plain torch; auto: what "
        "was measured to be fastest. vLLM's FLASHINFER and TRITON_ATTN are understood",
        choices=("auto", "triton", "flashinfer", "cpu", "torch_ref"),
        spellings=(("triton_attn", "triton"), ("cpu_attn", "cpu")),
    )
    enforce_eager: bool = option(False, "no captured graphs (they exist on GPUs only)")
