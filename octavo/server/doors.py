"""What the settings say of who may come in, read before anything slow is done."""

from __future__ import annotations

from pathlib import Path

from octavo.config.serve import ServeConfig
from octavo.config.serve_rules import check_serve
from octavo.server.keys import KeyRing
from octavo.server.middleware.audit import AuditLog
from octavo.server.tls import tls


def check_doors(serve: ServeConfig) -> None:
    """UserError for settings or files of keys, certificates or the audit log that do not do."""
    check_serve(serve)
    KeyRing.of(serve)
    tls(serve)
    if (log := audit_log(serve)) is not None:
        log.close()


def audit_log(serve: ServeConfig) -> AuditLog | None:
    return None if serve.audit_log is None else AuditLog(Path(serve.audit_log))
