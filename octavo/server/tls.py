"""HTTPS from the files of the settings. Knows no route."""

from __future__ import annotations

import ssl
from pathlib import Path

from octavo.config.serve import ServeConfig
from octavo.core.errors import UserError


def tls(serve: ServeConfig) -> ssl.SSLContext | None:
    """None where plain HTTP is spoken. UserError names the file that does not do."""
    if serve.ssl_certfile is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    certificate, key = _file("ssl_certfile", serve.ssl_certfile), serve.ssl_keyfile
    try:
        context.load_cert_chain(certificate, key and _file("ssl_keyfile", key), password=_no_password)
    except (ssl.SSLError, _Encrypted):
        raise UserError(
            "certificate and key cannot be used",
            hint="PEM files that belong together; the key without a password",
            field="ssl_keyfile" if key else "ssl_certfile",
        ) from None
    if serve.ssl_ca_certs is not None:
        try:
            context.load_verify_locations(_file("ssl_ca_certs", serve.ssl_ca_certs))
        except ssl.SSLError:
            raise UserError("it holds no certificate", hint="a PEM file", field="ssl_ca_certs") from None
    context.verify_mode = ssl.VerifyMode(serve.ssl_cert_reqs)
    return context


class _Encrypted(Exception):
    """The key wants a password, which would be asked for at the terminal."""


def _no_password() -> str:
    raise _Encrypted


def _file(field: str, name: str) -> str:
    path = Path(name).expanduser()
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{name}: {error.strerror}", hint="name a PEM file", field=field) from None
    return str(path)
