"""Certificates and origins: what the settings may say, and HTTPS itself."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

import pytest
import trustme
import uvloop

from octavo.config.engine import EngineConfig
from octavo.config.serve import ServeConfig
from octavo.core.errors import UserError
from octavo.server.doors import check_doors
from octavo.server.run import _url
from tests.server.running import QUIET, Running


class Files:
    """An authority, a certificate of ours and one of a client."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.ca, self.cert, self.key, self.mine = (folder / name for name in ("ca", "cert", "key", "mine"))
        self.authority.cert_pem.write_to_path(self.ca)
        ours = self.authority.issue_cert("127.0.0.1")
        ours.cert_chain_pems[0].write_to_path(self.cert)
        ours.private_key_pem.write_to_path(self.key)
        self.authority.issue_cert("client@example.org").private_key_and_cert_chain_pem.write_to_path(
            self.mine
        )

    def settings(self, **more: object) -> ServeConfig:
        return ServeConfig(ssl_certfile=str(self.cert), ssl_keyfile=str(self.key), **more)

    def client(self, certificate: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        if certificate:
            context.load_cert_chain(self.mine)
        return context


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


async def health(port: int, context: ssl.SSLContext | None) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    data = await reader.read()
    writer.close()
    return data


async def test_https(files, open_house):
    async with Running(open_house(config=EngineConfig(serve=files.settings(), observe=QUIET.observe))) as one:
        assert (await health(one.port, files.client())).startswith(b"HTTP/1.1 200")
        with pytest.raises(ssl.SSLError):
            await health(one.port, ssl.create_default_context())  # nobody it trusts signed for us
        assert b" 200 " not in await health(one.port, None)  # and plain HTTP is not spoken
        old = files.client()
        with pytest.warns(DeprecationWarning):
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError):
            await health(one.port, old)
        assert _url(one.house.service.config, one.listener).startswith("https://127.0.0.1:")


def test_an_idle_client_does_not_hold_up_the_end(files, open_house, caplog):
    def connect(port: int) -> ssl.SSLSocket:
        """A client that reads nothing any more, the server's good-bye neither."""
        peer = files.client().wrap_socket(
            socket.create_connection(("127.0.0.1", port)), server_hostname="127.0.0.1"
        )
        peer.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        peer.recv(1)
        return peer

    async def live() -> ssl.SSLSocket:
        config = EngineConfig(serve=files.settings(), observe=QUIET.observe)
        async with Running(open_house(config=config)) as one:
            return await asyncio.to_thread(connect, one.port)

    peer = uvloop.run(live())  # the loop of `octavo serve`, which waits for good-byes
    assert not [record for record in caplog.records if "timeout" in record.getMessage()]
    peer.close()


async def test_certificates_of_clients(files, open_house):
    serve = files.settings(ssl_ca_certs=str(files.ca), ssl_cert_reqs=2)
    async with Running(open_house(config=EngineConfig(serve=serve, observe=QUIET.observe))) as one:
        assert (await health(one.port, files.client(certificate=True))).startswith(b"HTTP/1.1 200")
        with contextlib.suppress(ssl.SSLError, ConnectionError):  # told after the client's own handshake
            assert await health(one.port, files.client()) == b""


@pytest.mark.parametrize(
    "given,field",
    [
        ({"ssl_keyfile": "x"}, "ssl_keyfile"),
        ({"ssl_ca_certs": "x"}, "ssl_ca_certs"),
        ({"ssl_cert_reqs": 2}, "ssl_cert_reqs"),
        ({"ssl_certfile": "/nowhere/cert"}, "ssl_certfile"),
        ({"ssl_certfile": "{cert}"}, "ssl_certfile"),  # it holds no key
        ({"ssl_certfile": "{cert}", "ssl_keyfile": "/nowhere/key"}, "ssl_keyfile"),
        ({"ssl_certfile": "{cert}", "ssl_keyfile": "{mine}"}, "ssl_keyfile"),  # of another certificate
        ({"ssl_certfile": "{cert}", "ssl_keyfile": "{locked}"}, "ssl_keyfile"),
        ({"ssl_certfile": "{cert}", "ssl_keyfile": "{key}", "ssl_ca_certs": "{key}"}, "ssl_ca_certs"),
        ({"ssl_certfile": "{cert}", "ssl_keyfile": "{key}", "ssl_cert_reqs": 1}, "ssl_cert_reqs"),
    ],
)
def test_files_that_do_not_do(files, given, field):
    locked = files.key.with_name("locked")
    locked.write_bytes(_encrypted(files.key.read_bytes()))
    names = {**vars(files), "locked": locked}
    values = {k: v.format(**names) if isinstance(v, str) else v for k, v in given.items()}
    with pytest.raises(UserError) as caught:
        check_doors(ServeConfig(**values))
    assert caught.value.field == field and caught.value.hint


def _encrypted(pem: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization as s

    key = s.load_pem_private_key(pem, None)
    return key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"password"))


@pytest.mark.parametrize(
    "given,field",
    [
        ({"allow_credentials": True}, "allow_credentials"),
        ({"allowed_origins": ("https://a.example", "*"), "allow_credentials": True}, "allow_credentials"),
        ({"allowed_origins": ("a.example",)}, "allowed_origins"),
        ({"allowed_origins": ("https://a.example/",)}, "allowed_origins"),
        ({"allowed_origins": ("null",)}, "allowed_origins"),
        ({"allowed_origins": ("https://*.example",)}, "allowed_origins"),
        ({"allowed_methods": ("GET POST",)}, "allowed_methods"),
        ({"allowed_headers": ("a\r\nb",)}, "allowed_headers"),
    ],
)
def test_origins_that_do_not_do(given, field):
    with pytest.raises(UserError) as caught:
        check_doors(ServeConfig(**given))
    assert caught.value.field == field and caught.value.hint


def test_what_does():
    check_doors(ServeConfig())
    check_doors(
        ServeConfig(
            allowed_origins=("https://a.example", "http://localhost:3000", "http://[::1]:80"),
            allowed_methods=("GET", "POST"),
            allowed_headers=("X-Request-Id",),
            allow_credentials=True,
        )
    )
