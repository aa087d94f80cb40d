"""The listening socket, taken before anything slow is done, so that a taken port is told at once."""

from __future__ import annotations

import errno
import socket

import psutil

from octavo.core.errors import UserError

_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. UserError names who holds the port, or what is wrong with the host."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise UserError(
            f"host {host!r} is unknown: {error}",
            hint="use 127.0.0.1, 0.0.0.0 or a name of this machine",
            field="host",
        ) from None
    listener = socket.socket(family, kind, proto)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _explain(error, host, port) from None
    listener.setblocking(False)
    return listener


def _explain(error: OSError, host: str, port: int) -> UserError:
    if error.errno == errno.EADDRINUSE:
        hint = f"stop it, or choose another one with --port {port + 1 if port < 65535 else 8000}"
        return UserError(f"port {port} is in use by {holder(port)}", hint=hint, field="port")
    if error.errno == errno.EACCES:
        hint = "ports below 1024 need rights; choose another one with --port 8000"
        return UserError(f"port {port} may not be opened by this user", hint=hint, field="port")
    hint = "use 127.0.0.1, 0.0.0.0 or an address of this machine"
    return UserError(f"cannot listen on {host}:{port}: {error.strerror}", hint=hint, field="host")


def holder(port: int) -> str:
    """Who listens there, as far as this user may know."""
    try:
        for connection in psutil.net_connections("tcp"):
            local = connection.laddr
            if connection.status == psutil.CONN_LISTEN and local and local.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return "another process"
