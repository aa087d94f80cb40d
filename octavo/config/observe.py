"""Logs and statistics."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.config.option import option


@dataclass(frozen=True, kw_only=True)
class ObserveConfig:
    log_level: str = option(
        "info",
        "least severe message shown",
        choices=("debug", "info", "warning", "error"),
        aliases=("uvicorn-log-level",),
    )
    log_format: str = option("text", "text for people, json for machines", choices=("text", "json"))
    profiler_dir: str | None = option(
        None, "folder for traces; allows POST /start_profile and /stop_profile", kind="path"
    )
    disable_log_stats: bool = option(False, "no periodic line of throughput and queue lengths")
    enable_log_requests: bool = option(
        False, "log each request's parameters (never its text)", serve_only=True
    )
    disable_uvicorn_access_log: bool = option(
        False, "no line for each HTTP request", serve_only=True, aliases=("disable-access-log",)
    )
