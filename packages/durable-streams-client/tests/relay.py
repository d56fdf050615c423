"""A TCP relay to one server, which stands for a proxy or a network in between.

Requests in absolute form pass through as they are, so it serves as an HTTP proxy for the tests'
server, whatever host they name.
"""

import socket
import threading
from contextlib import suppress
from typing import Self


class Relay:
    """Use as a context manager. ``connections`` counts those it has accepted."""

    def __init__(self, port: int) -> None:
        self.connections = 0
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)
        for each in self._sockets:
            each.close()

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.connections += 1
                self._sockets.append(near)
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets.append(far)
                self._start(self._copy, near, far)
                self._start(self._copy, far, near)

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for each in source, sink:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
