"""Opens listening sockets: at an address and port, at a Unix path, or inherited from a supervisor.

A Unix path that a running server listens on is not taken over. One that a server left behind when
it was killed is replaced.
"""

import contextlib
import errno
import os
import socket
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

BACKLOG = 4096
"""Connections that the system keeps until the server accepts them."""


def listen_at(host: str, port: int) -> list[socket.socket]:
    """Listen at every address that ``host`` means, at one port; 0 lets the system pick it.

    Raises :class:`OSError` where one of the addresses cannot be had.
    """
    sockets: list[socket.socket] = []
    flags = socket.AI_PASSIVE
    addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
    try:
        for family, kind, protocol, _, address in dict.fromkeys(addresses):
            # The addresses of a name share the port that was picked for the first of them.
            listener = socket.socket(family, kind, protocol)
            sockets.append(listener)
            _prepare(listener)
            chosen = sockets[0].getsockname()[1] if len(sockets) > 1 else port
            listener.bind((address[0], chosen, *address[2:]))
            listener.listen(BACKLOG)
    except BaseException:
        for listener in sockets:
            listener.close()
        raise
    return sockets


def listen_at_path(path: str) -> socket.socket:
    """Listen at a Unix path; raises :class:`OSError` where another server listens there."""
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.bind(path)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def inherit(descriptor: int) -> socket.socket:
    """The listening socket that the parent of this process left it under a descriptor.

    Raises :class:`OSError` where there is none. The socket stays open for others who hold it.
    """
    listener = socket.socket(fileno=descriptor)
    try:
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise OSError(errno.EINVAL, "it does not listen")
        listener.setblocking(False)
        listener.set_inheritable(False)
    except BaseException:
        listener.close()
        raise
    return listener


def port_of(listeners: Sequence[socket.socket]) -> int:
    """The port that sockets listen at, 0 at a Unix path."""
    listener = listeners[0]
    port: int = 0 if listener.family == socket.AF_UNIX else listener.getsockname()[1]
    return port


def _prepare(listener: socket.socket) -> None:
    listener.setblocking(False)
    if sys.platform != "win32":
        # On Windows this option would let two servers have one port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on; anything else at the path is left to ``bind``."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            # A server whose backlog is full would keep a blocking probe waiting.
            probe.setblocking(False)
            if probe.connect_ex(path) != errno.ECONNREFUSED:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)
        Path(path).unlink()
