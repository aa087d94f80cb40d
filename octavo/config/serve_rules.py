"""Checks of server settings that need more than one value. Each names the remedy."""

from __future__ import annotations

import re

from octavo.config.serve import ServeConfig
from octavo.core.errors import UserError

_ORIGIN = re.compile(r"https?://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # a header's or method's name


def check_serve(serve: ServeConfig) -> None:
    """Raises UserError for the first rule that is broken."""
    for rule in RULES:
        rule(serve)


def origins(serve: ServeConfig) -> None:
    for origin in serve.allowed_origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise UserError(
                f"{origin[:80]!r} is not an origin",
                hint="* or scheme, host and port, without a path: https://app.example.org",
                field="allowed_origins",
            )


def credentials_need_origins(serve: ServeConfig) -> None:
    """A browser would then send its cookies here from every page there is."""
    if serve.allow_credentials and "*" in serve.allowed_origins:
        raise UserError(
            "allow_credentials with allowed_origins * opens the server to every web page",
            hint="name the origins with --allowed-origins, or leave --allow-credentials out",
            field="allow_credentials",
        )


def names(serve: ServeConfig) -> None:
    for field, given in (
        ("allowed_methods", serve.allowed_methods),
        ("allowed_headers", serve.allowed_headers),
    ):
        for name in given:
            if not _TOKEN.fullmatch(name):
                raise UserError(f"{name[:80]!r} is no name", hint="* or names such as GET", field=field)


def certificate(serve: ServeConfig) -> None:
    """The other files mean nothing without one, and plain HTTP must not be spoken by a slip."""
    if serve.ssl_certfile is not None:
        return
    for field in ("ssl_keyfile", "ssl_ca_certs", "ssl_cert_reqs"):
        if vars(serve)[field]:
            raise UserError(f"{field} needs ssl_certfile", hint="add --ssl-certfile FILE", field=field)


def authorities(serve: ServeConfig) -> None:
    if serve.ssl_cert_reqs and serve.ssl_ca_certs is None:
        raise UserError(
            "ssl_cert_reqs needs ssl_ca_certs: certificates are checked against those",
            hint="add --ssl-ca-certs FILE",
            field="ssl_cert_reqs",
        )


def bodies_need_a_log(serve: ServeConfig) -> None:
    if serve.audit_bodies and serve.audit_log is None:
        raise UserError("audit_bodies needs audit_log", hint="add --audit-log FILE", field="audit_bodies")


def one_body_fits(serve: ServeConfig) -> None:
    if serve.max_body_bytes > serve.max_bodies_bytes:
        raise UserError(
            f"max_body_bytes {serve.max_body_bytes} is above max_bodies_bytes {serve.max_bodies_bytes}",
            hint="raise --max-bodies-bytes to several times --max-body-bytes",
            field="max_bodies_bytes",
        )


RULES = (origins, credentials_need_origins, names, certificate, authorities, bodies_need_a_log, one_body_fits)
