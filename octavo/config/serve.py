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
        "keys clients must send; several are repeated or separated by commas; `sha256:` and a digest also do "
        "(default: OCTAVO_API_KEY)",
        kind="list",
        serve_only=True,
        secret=True,
    )
    api_key_file: str | None = option(
        None,
        "more keys: one a line, or a YAML list of them with names, models and limits",
        kind="path",
        serve_only=True,
    )
    max_requests_per_key: int = option(
        0, "requests a key may have open at once; 0: any number", low=0, serve_only=True
    )
    max_requests_per_minute: int = option(
        0, "requests a key may begin in a minute; 0: any number", low=0, serve_only=True
    )
    max_tokens_per_minute: int = option(
        0, "prompt and answer tokens a key may use in a minute; 0: any number", low=0, serve_only=True
    )
    audit_log: str | None = option(
        None,
        "file that gets a JSON line for each request: who, what, status, tokens",
        kind="path",
        serve_only=True,
    )
    audit_bodies: bool = option(False, "write the bodies of requests into the audit log", serve_only=True)
    ssl_certfile: str | None = option(
        None, "certificate chain (PEM); with it the server speaks HTTPS", kind="path", serve_only=True
    )
    ssl_keyfile: str | None = option(
        None, "private key (PEM), where ssl_certfile does not hold it", kind="path", serve_only=True
    )
    ssl_ca_certs: str | None = option(
        None, "authorities (PEM) that clients' certificates are checked against", kind="path", serve_only=True
    )
    ssl_cert_reqs: int = option(
        0,
        "certificates of clients: 0 not asked for, 1 checked when sent, 2 required",
        low=0,
        high=2,
        serve_only=True,
    )
    allowed_origins: tuple[str, ...] = option(("*",), "CORS origins", kind="list", serve_only=True)
    allowed_methods: tuple[str, ...] = option(("*",), "CORS methods", kind="list", serve_only=True)
    allowed_headers: tuple[str, ...] = option(("*",), "CORS headers", kind="list", serve_only=True)
    allow_credentials: bool = option(False, "CORS credentials", serve_only=True)
    root_path: str = option("", "path prefix a proxy strips", serve_only=True)
    max_body_bytes: int = option(16 << 20, "largest request body", low=1024, kind="size", serve_only=True)
    max_bodies_bytes: int = option(
        512 << 20, "bodies of all open requests together", low=1024, kind="size", serve_only=True
    )
    max_header_bytes: int = option(
        64 << 10, "largest request line and headers together", low=1024, kind="size", serve_only=True
    )
    max_header_count: int = option(
        256, "most headers of a request", low=8, aliases=("h11-max-header-count",), serve_only=True
    )
    max_connections: int = option(4096, "most connections at once", low=1, serve_only=True)
    header_timeout: float = option(
        10.0, "seconds a connection may take for its request line and headers", low=0.1, serve_only=True
    )
    body_timeout: float = option(
        300.0, "seconds a request's body may take to arrive", low=0.1, serve_only=True
    )
    send_timeout: float = option(
        60.0, "seconds a client may leave its answer unread", low=0.1, serve_only=True
    )
    keep_alive_timeout: float = option(
        5.0, "seconds an idle connection is kept for the next request", low=0.0, serve_only=True
    )
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

    @property
    def keyed(self) -> bool:
        """Whether clients need a key."""
        return bool(self.api_key or self.api_key_file)
