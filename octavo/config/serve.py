"""The HTTP server."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.config.option import option


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    host: str = option(
        "127.0.0.1", "address to listen on; 0.0.0.0 for all, then set --api-key", serve_only=True
    )
    port: int = option(8000, "port to listen on", low=0, high=65535, serve_only=True)
    api_key: tuple[str, ...] = option(
        (),
        "keys clients must send; several may be given (default: OCTAVO_API_KEY)",
        kind="list",
        serve_only=True,
        secret=True,
    )
    allowed_origins: tuple[str, ...] = option(("*",), "CORS origins", kind="list", serve_only=True)
    allowed_methods: tuple[str, ...] = option(("*",), "CORS methods", kind="list", serve_only=True)
    allowed_headers: tuple[str, ...] = option(("*",), "CORS headers", kind="list", serve_only=True)
    allow_credentials: bool = option(False, "CORS credentials", serve_only=True)
    root_path: str = option("", "path prefix a proxy strips", serve_only=True)
    max_body_bytes: int = option(16 << 20, "largest request body", low=1024, kind="size", serve_only=True)
    shutdown_timeout: float = option(
        30.0, "seconds open streams may take after SIGTERM", low=0.0, serve_only=True
    )
    step_timeout: float = option(
        120.0, "seconds without a finished step after which /health says 503", low=1.0, serve_only=True
    )
    heartbeat: float = option(
        10.0, "seconds of silence after which a stream gets an SSE comment", low=0.1, serve_only=True
    )
    response_store_bytes: int = option(
        64 << 20,
        "memory for the stored responses of one API key, the oldest of which are dropped; 0: none are stored",
        low=0,
        kind="size",
        serve_only=True,
    )
    response_store_seconds: float = option(
        86400.0, "seconds for which a response is stored", low=1.0, serve_only=True
    )
    response_role: str = option("assistant", "role in chat replies", serve_only=True)
    disable_fastapi_docs: bool = option(False, "no /docs, /redoc and /openapi.json", serve_only=True)
    enable_request_id_headers: bool = option(True, "answer with X-Request-Id", serve_only=True)
    return_tokens_as_token_ids: bool = option(
        False, 'name tokens "token_id:N" in log-probabilities', serve_only=True
    )
    enable_prompt_tokens_details: bool = option(True, "report cached prompt tokens in usage", serve_only=True)
    tool_call_parser: str = option(
        "auto",
        "how the model writes tool calls; auto: as its chat template shows; none: not read",
        serve_only=True,
    )
    reasoning_parser: str = option(
        "auto",
        "how the model marks reasoning; auto: as its chat template shows; none: not read",
        serve_only=True,
    )
    enable_auto_tool_choice: bool = option(
        True, "let the model choose whether to call a tool, where tool_choice does not say", serve_only=True
    )
    exclude_tools_when_tool_choice_none: bool = option(
        False, "do not tell the model of tools it may not call", serve_only=True
    )
    enable_force_include_usage: bool = option(False, "usage in every stream", serve_only=True)
