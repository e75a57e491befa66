"""The socket at which a server listens."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import stat
from collections.abc import Iterator
from ipaddress import ip_address

from gptcli.console import say
from gptcli.errors import StorageError, UsageError
from gptcli.serve.access import KEY_VARIABLE, ApiKeys
from gptcli.serve.settings import ServeSettings

BACKLOG = 2048
"""Most connections that wait to be accepted."""
SOCKET_MODE = 0o660
"""Permissions of a Unix socket: its owner and group may connect."""


@contextlib.contextmanager
def listening(settings: ServeSettings) -> Iterator[socket.socket]:
    """Listen at the address of the settings during the block.

    Raises:
        UsageError: it cannot be listened at; the message says why.
    """
    listener = unix_listener(settings.unix_socket) if settings.unix_socket else tcp_listener(settings)
    try:
        yield listener
    finally:
        listener.close()
        if settings.unix_socket:
            with contextlib.suppress(OSError):
                os.unlink(settings.unix_socket)


def tcp_listener(settings: ServeSettings) -> socket.socket:
    """Return a socket that listens at host and port."""
    host, port = settings.host, settings.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise UsageError(f"{host} is no address of this machine", "leave out --host, or use 0.0.0.0") from None
    family, kind, protocol, _, place = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise refused(error, host, port) from error
    return listener


def refused(error: OSError, host: str, port: int) -> UsageError:
    """Return the error for an address that the system does not give."""
    match error.errno:
        case errno.EADDRINUSE:
            return UsageError(f"port {port} of {host} is in use", "choose another: --port 0 takes one that is free")
        case errno.EACCES:
            return UsageError(f"port {port} is reserved for root", "choose one from 1024 on: --port 8000")
        case _:
            return UsageError(f"{host} is no address of this machine", "leave out --host, or use 0.0.0.0")


def unix_listener(path: str) -> socket.socket:
    """Return a socket that listens at a path, in place of one that an ended server has left there."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if is_abandoned(path):
            os.unlink(path)
        listener.bind(path)
        os.chmod(path, SOCKET_MODE)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"{path} is in use", "choose another --unix-socket") from error
        raise StorageError(
            f"{path} cannot be made: {error.strerror or error}", "choose another --unix-socket"
        ) from error
    return listener


def is_abandoned(path: str) -> bool:
    """Return whether a path is a socket at which nobody listens."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(path)
    except FileNotFoundError:
        return False
    except ConnectionRefusedError:
        return True
    return False


def address(listener: socket.socket) -> str:
    """Return the URL of a socket, or the path of a Unix socket."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"


def warn_of_openness(listener: socket.socket, keys: ApiKeys) -> None:
    """Warn if other machines can use the server without a key."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX or keys or ip_address(name[0].partition("%")[0]).is_loopback:
        return
    say(
        "warning: whoever reaches this machine can use the server; give it an API key "
        f"(--api-key-file FILE or the variable {KEY_VARIABLE})"
    )


def raise_descriptor_limit(wanted: int) -> None:
    """Allow this process as many open files as it needs, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
