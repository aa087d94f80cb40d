"""vLLM's settings that have no owner here, in one table for the command line and for `LLM`.

Each is harmless at its neutral value (a log line at most) and otherwise refused with what to use
instead. Settings we have are not listed: they live in the config dataclasses.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from octavo.core.errors import Unsupported

log = logging.getLogger(__name__)

_EMPTY: tuple[Any, ...] = (None, "", (), [], {}, False)


class Foreign(NamedTuple):
    """`neutral` values change nothing here; any other is refused with `why`, or, when `ignored`, only
    logged. `flags` are short forms on the command line, where a `switch` takes no value and `many` take
    several."""

    why: str
    neutral: tuple[Any, ...] = ()
    ignored: bool = False
    switch: bool = False
    many: bool = False
    flags: tuple[str, ...] = ()


def _not_yet(what: str, *neutral: Any, flags: tuple[str, ...] = ()) -> Foreign:
    return Foreign(f"{what} not supported yet", neutral, flags=flags)


def _no_effect(why: str, flags: tuple[str, ...] = ()) -> Foreign:
    return Foreign(why, ignored=True, flags=flags)


def _switch(row: Foreign) -> Foreign:
    return row._replace(switch=True)


def _many(row: Foreign) -> Foreign:
    return row._replace(many=True)


_ONE_DEVICE = "one device is used; several devices are"
_MEDIA = "images, audio and video are"
_LORA = "LoRA adapters are"
_DATA = "data parallel serving is"
_OFFLOAD = "weight offload is"
_COMPILE = "nothing is compiled or captured on this device"

FOREIGN: dict[str, Foreign] = {
    # model
    "runner": _not_yet("runners other than generate are", "auto", "generate"),
    "convert": _not_yet("converted models are", "auto", "none"),
    "task": _not_yet("tasks other than generate are", "auto", "generate"),
    "tokenizer_mode": _not_yet("tokenizer modes other than auto are", "auto", "hf", "slow"),
    "tokenizer_revision": Foreign("use revision: it holds for every file, the tokenizer's too"),
    "code_revision": Foreign("code of a checkpoint is never run"),
    "config_format": _not_yet("config formats other than auto are", "auto", "hf"),
    "model_impl": _not_yet("implementations other than our own are", "auto", "vllm"),
    "quantization_config": Foreign("quantization: a method's name, is what there is"),
    "logprobs_mode": _not_yet("log-probability modes other than raw_logprobs are", "raw_logprobs"),
    "logits_processors": _many(_not_yet("custom logits processors are")),
    "enable_sleep_mode": _switch(_not_yet("sleep mode is")),
    "enable_prompt_embeds": _switch(_not_yet("prompt embeddings are")),
    "enable_return_routed_experts": _switch(_not_yet("routed experts in results are")),
    "pooler_config": _not_yet("pooling is"),
    "io_processor_plugin": _not_yet("IO processors are"),
    "renderer_num_workers": _no_effect("text is prepared in the front process"),
    "max_seq_len_to_capture": _no_effect(_COMPILE),
    # loading
    "safetensors_load_strategy": _no_effect("weights are always memory-mapped"),
    "model_loader_extra_config": Foreign("loaders other than our own do not exist; leave it out"),
    "ignore_patterns": _no_effect("only the files a model needs are fetched"),
    "use_tqdm_on_load": _switch(_no_effect("loading reports its progress in its own way")),
    "swap_space": _no_effect("preempted requests are recomputed, not swapped"),
    "cpu_offload_gb": _not_yet(_OFFLOAD, 0),
    "cpu_offload_params": _many(_not_yet(_OFFLOAD)),
    "offload_backend": _not_yet(_OFFLOAD, "auto"),
    "offload_group_size": _not_yet(_OFFLOAD, 0),
    "offload_num_in_group": _no_effect("weight offload is off"),
    "offload_prefetch_step": _no_effect("weight offload is off"),
    "offload_params": _many(_not_yet(_OFFLOAD)),
    # attention, kernels, cache
    "attention_config": Foreign("use attention_backend", flags=("-ac",)),
    "moe_backend": _no_effect("kernels are chosen by measurement"),
    "linear_backend": _no_effect("kernels are chosen by measurement"),
    "mamba_backend": _no_effect("kernels are chosen by measurement"),
    "kernel_config": _no_effect("kernels are chosen by measurement"),
    "prefix_caching_hash_algo": _no_effect("blocks are always keyed by a cryptographic hash"),
    "kv_cache_dtype_skip_layers": _many(_not_yet("a KV dtype per layer is")),
    "kv_offloading_size": _not_yet("KV offload is", 0),
    "kv_offloading_backend": _no_effect("KV offload is off"),
    "calculate_kv_scales": _switch(_not_yet("computing KV scales at start is")),
    "disable_cascade_attn": _switch(_no_effect("cascade attention does not exist here")),
    "disable_hybrid_kv_cache_manager": _switch(_no_effect("layers of one kind share one pool in any case")),
    "mamba_cache_mode": _no_effect("models with recurrent state are not loaded"),
    # several devices
    "tensor_parallel_size": _not_yet(_ONE_DEVICE, 1, flags=("-tp",)),
    "pipeline_parallel_size": _not_yet(_ONE_DEVICE, 1, flags=("-pp",)),
    "data_parallel_size": _not_yet(_ONE_DEVICE, 1, flags=("-dp",)),
    "decode_context_parallel_size": _not_yet(_ONE_DEVICE, 1, flags=("-dcp",)),
    "prefill_context_parallel_size": _not_yet(_ONE_DEVICE, 1, flags=("-pcp",)),
    "enable_expert_parallel": _switch(_not_yet(_ONE_DEVICE, flags=("-ep",))),
    "all2all_backend": _no_effect("one device is used"),
    "distributed_executor_backend": _not_yet("executors over several devices are", "mp", "uni"),
    "disable_custom_all_reduce": _switch(_no_effect("one device is used")),
    "max_parallel_loading_workers": _no_effect("one device is used"),
    "worker_cls": Foreign("workers of other engines cannot run here", ("auto",)),
    "worker_extension_cls": Foreign("worker extensions of other engines cannot run here"),
    "nnodes": _not_yet("several nodes are", 1, flags=("-n",)),
    "node_rank": _not_yet("several nodes are", 0, flags=("-r",)),
    "master_addr": _no_effect("one node is used"),
    "master_port": _no_effect("one node is used"),
    "enable_eplb": _switch(_not_yet("expert balancing is")),
    "enable_dbo": _switch(_not_yet("dual batch overlap is")),
    "data_parallel_rank": _not_yet(_DATA, 0, flags=("-dpn",)),
    "data_parallel_size_local": _not_yet(_DATA, 0, 1, flags=("-dpl",)),
    "data_parallel_address": _no_effect("one replica is used", flags=("-dpa",)),
    "data_parallel_rpc_port": _no_effect("one replica is used", flags=("-dpp",)),
    "data_parallel_backend": _no_effect("one replica is used", flags=("-dpb",)),
    "api_server_count": _not_yet("several front processes are", 1, flags=("-asc",)),
    "headless": _switch(_not_yet("an engine without a server is")),
    "numa_bind": _switch(_no_effect("use numactl")),
    # scheduler
    "max_num_partial_prefills": _no_effect("chunks of several prompts always share a step"),
    "max_long_partial_prefills": _no_effect("use --long-prefill-token-threshold"),
    "stream_interval": _not_yet("streams in larger pieces are", 1),
    "scheduler_cls": Foreign("schedulers of other engines cannot run here"),
    "scheduler_reserve_full_isl": _switch(_no_effect("blocks are taken as they are needed")),
    "watermark": _no_effect("blocks are taken as they are needed"),
    "num_scheduler_steps": _no_effect("the loop overlaps steps by itself"),
    "num_lookahead_slots": _no_effect("drafts bring their own slots"),
    "disable_chunked_mm_input": _switch(_no_effect("there are no media")),
    # adapters
    "enable_lora": _switch(_not_yet(_LORA)),
    "max_loras": _no_effect("LoRA adapters are off"),
    "max_lora_rank": _no_effect("LoRA adapters are off"),
    "max_cpu_loras": _no_effect("LoRA adapters are off"),
    "lora_dtype": _no_effect("LoRA adapters are off"),
    "fully_sharded_loras": _switch(_no_effect("LoRA adapters are off")),
    "lora_modules": _many(_not_yet(_LORA)),
    "default_mm_loras": _not_yet(_LORA),
    # media
    "limit_mm_per_prompt": _no_effect("the models served here read text only"),
    "language_model_only": _switch(_no_effect("the models served here read text only")),
    "media_io_kwargs": _not_yet(_MEDIA),
    "mm_processor_kwargs": _not_yet(_MEDIA),
    "mm_processor_cache_gb": _no_effect("there are no media"),
    "mm_processor_cache_type": _no_effect("there are no media"),
    "mm_encoder_tp_mode": _no_effect("there are no media"),
    "enable_mm_embeds": _switch(_not_yet(_MEDIA)),
    "interleave_mm_strings": _switch(_no_effect("there are no media")),
    "skip_mm_profiling": _switch(_no_effect("there are no media")),
    "disable_mm_preprocessor_cache": _switch(_no_effect("there are no media")),
    "allowed_local_media_path": _not_yet(_MEDIA),
    "allowed_media_domains": _many(_not_yet(_MEDIA)),
    # grammar, reasoning, tools
    "structured_outputs_config": Foreign("read as the settings of structured output"),
    "guided_decoding_backend": Foreign("use --structured-outputs-backend", ("auto", "guidance")),
    "reasoning_parser_plugin": Foreign("install it as a package with an octavo.reasoning_parser entry point"),
    "reasoning_config": Foreign("send thinking_token_budget with a request"),
    "tool_parser_plugin": Foreign("install it as a package with an octavo.tool_parser entry point"),
    "tool_server": _not_yet("tool servers are"),
    # drafts, transfer
    "speculative_config": _not_yet("speculative decoding is", flags=("-sc",)),
    "spec_method": _not_yet("speculative decoding is"),
    "spec_model": _not_yet("speculative decoding is"),
    "spec_tokens": _not_yet("speculative decoding is", 0),
    "kv_transfer_config": _not_yet("KV transfer between engines is"),
    "ec_transfer_config": _not_yet("transfer between engines is"),
    "kv_events_config": _not_yet("KV events are"),
    "weight_transfer_config": _not_yet("weight updates are"),
    "tokens_only": _switch(_not_yet("a tokens-only server is")),
    # compilation
    "compilation_config": _no_effect(_COMPILE, flags=("-cc",)),
    "cudagraph_capture_sizes": _many(_no_effect(_COMPILE)),
    "cuda_graph_sizes": _many(_no_effect(_COMPILE)),
    "max_cudagraph_capture_size": _no_effect(_COMPILE),
    "optimization_level": _no_effect(_COMPILE, flags=("-O",)),
    "performance_mode": _no_effect("sizes follow from the device and memory"),
    # observability
    "otlp_traces_endpoint": _not_yet("traces are"),
    "collect_detailed_traces": _not_yet("traces are"),
    "kv_cache_metrics": _switch(_no_effect("KV use is always in /metrics")),
    "cudagraph_metrics": _switch(_no_effect(_COMPILE)),
    "show_hidden_metrics_for_version": _no_effect("no metric is hidden"),
    "enable_log_outputs": _switch(Foreign("texts of users are never logged")),
    "enable_log_deltas": _switch(_no_effect("texts of users are never logged")),
    "max_log_len": _no_effect("texts of users are never logged"),
    "log_config_file": Foreign("use --log-level and --log-format"),
    "profiler_config": Foreign("use --profiler-dir"),
    "aggregate_engine_logging": _switch(_no_effect("there is one engine")),
    "disable_log_requests": _switch(
        _no_effect("requests are not logged unless --enable-log-requests is given")
    ),
    # HTTP
    "uds": _not_yet("serving on a unix socket is"),
    "ssl_ciphers": Foreign("TLS 1.2 and above is spoken with OpenSSL's own choice of ciphers"),
    "enable_ssl_refresh": _switch(Foreign("restart the server to take a new certificate")),
    "middleware": Foreign("middleware of other servers cannot run here: put a proxy in front"),
    "disable_access_log_for_endpoints": _many(Foreign("use --disable-uvicorn-access-log")),
    "enable_offline_docs": _switch(_no_effect("see /docs")),
    "h11_max_incomplete_event_size": _no_effect("use --max-header-bytes and --max-body-bytes"),
    "disable_frontend_multiprocessing": _switch(_no_effect("front and engine are always two processes")),
    # replies
    "chat_template_content_format": _not_yet("content formats other than auto are", "auto", "string"),
    "trust_request_chat_template": _switch(
        Foreign("templates of clients are never run: use --chat-template")
    ),
    "default_chat_template_kwargs": _not_yet("default template arguments are"),
    "enable_per_request_metrics": _switch(_not_yet("metrics in replies are")),
    "enable_server_load_tracking": _switch(_no_effect("see /metrics")),
    "enable_tokenizer_info_endpoint": _switch(_not_yet("/tokenizer_info is")),
    "fingerprint_mode": _no_effect("replies carry a fixed fingerprint"),
    "log_error_stack": _switch(_no_effect("faults are always logged with their stack")),
    "enable_server_dev_mode": _switch(_not_yet("developer routes are")),
}


def known(name: str) -> bool:
    """Whether vLLM has this setting (any spelling of its flag) and we do not."""
    return _key(name) in FOREIGN


def foreign(name: str, value: Any) -> str | None:
    """What a vLLM setting without an owner does here: None at a neutral value, else a line for the
    log saying why it has no effect. Unsupported when it would have changed the answers or the machine.
    `name` must be `known`."""
    key = _key(name)
    row = FOREIGN[key]
    if value in row.neutral or value in _EMPTY or str(value) in [str(neutral) for neutral in row.neutral]:
        return None
    if row.ignored:
        return f"{key} has no effect: {row.why}"
    raise Unsupported(f"{key}={_short(value)} is not available: {row.why}", hint=_remedy(row), field=key)


def apply_foreign(values: dict[str, Any]) -> dict[str, Any]:
    """Takes vLLM's settings without an owner out of `values`, logs those without effect, and returns
    the rest. Unsupported on the first one that cannot be."""
    rest: dict[str, Any] = {}
    for name, value in values.items():
        if not known(name):
            rest[name] = value
        elif (line := foreign(name, value)) is not None:
            log.warning("%s", line)
    return rest


def _key(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _remedy(row: Foreign) -> str:
    return f"leave it out, or use {row.neutral[0]!r}" if row.neutral else "leave it out"
