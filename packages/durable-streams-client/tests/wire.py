"""A server that sends prepared bytes, whatever was asked, and then closes the connection.

It runs in threads of its own, so that async and sync tests use it alike.
"""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self


class Wire:
    """Use as a context manager. ``answer`` gets the whole request and returns the bytes to send."""

    def __init__(self) -> None:
        self.answer: Callable[[bytes], bytes] = lambda request: b""
        self.requests: list[bytes] = []
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            request = _receive(connection)
            if not request:
                return
            self.requests.append(request)
            connection.sendall(self.answer(request))
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):  # a reset would take back what the client has not read
                pass


def _receive(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return b""
        data += more
    head = data.partition(b"\r\n\r\n")[0].lower()
    length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0] or b"0")
    while len(data) < len(head) + 4 + length:
        data += connection.recv(65536)
    return data


def answer(
    status: int,
    headers: dict[str, str],
    body: bytes = b"",
    *,
    version: str = "1.1",
    length: bool = True,
) -> bytes:
    """One HTTP answer; without ``length`` only the end of the connection ends its body."""
    lines = [f"HTTP/{version} {status} X", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
