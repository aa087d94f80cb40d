"""Uploaded files and batches: where they are kept, and how much of them."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.config.option import option


@dataclass(frozen=True, kw_only=True)
class FilesConfig:
    files_dir: str | None = option(
        None,
        "private folder of uploaded files and batches (default: OCTAVO_HOME/files/PORT)",
        kind="path",
        serve_only=True,
    )
    max_file_bytes: int = option(200 << 20, "largest uploaded file", low=1, kind="size", serve_only=True)
    max_files_bytes: int = option(
        2 << 30, "most bytes of files one API key may hold", low=1, kind="size", serve_only=True
    )
    file_days: float = option(
        30.0, "days after which a file or a finished batch is removed", low=0.01, high=3650, serve_only=True
    )
    max_batch_requests: int = option(
        50_000, "most requests in one batch", low=1, high=10_000_000, serve_only=True
    )
    batch_rows: int | None = option(
        None,
        "most batch requests in the engine at once; none: three quarters of max_num_seqs, so that live "
        "requests find room",
        low=1,
        serve_only=True,
    )
