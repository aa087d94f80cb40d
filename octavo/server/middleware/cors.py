"""CORS, by Starlette, from our settings."""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from octavo.config.serve import ServeConfig


def cors(app: ASGIApp, *, config: ServeConfig) -> CORSMiddleware:
    """Answers preflight requests itself, before any key is asked for."""
    return CORSMiddleware(
        app,
        allow_origins=config.allowed_origins,
        allow_methods=config.allowed_methods,
        allow_headers=config.allowed_headers,
        allow_credentials=config.allow_credentials,
        expose_headers=("X-Request-Id", "Retry-After"),
    )
