"""Requests over an httpx client that was handed in: its connections are the caller's.

Its sockets cannot be waited on together with anything else. So each of its waits happens in a
thread of its own, and the thread that asked can stop waiting: when its reader is cancelled, when
its time is up, or when the client is closed. A wait that was left ends at the time limits of its
request.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, TypeVar

from durable_streams_client._sync.runtime import Notifier

T = TypeVar("T")


def send(client: Any, request: Any) -> "Response":
    """Send with ``client`` and return its response as soon as the head has come."""
    errand = _Errand(
        lambda: client.send(request, stream=True, follow_redirects=False),
        lambda response: response.close(),
    )
    return Response(errand.wait())


class Response:
    """An httpx response whose body is read in other threads."""

    def __init__(self, response: Any) -> None:
        self.status_code = response.status_code
        self.headers = response.headers
        self.extensions = response.extensions
        self.is_stream_consumed = response.is_stream_consumed
        self._response = response
        self._reading: _Errand[bytes | None] | None = None

    @property
    def content(self) -> bytes:
        """The body of a response that was made whole."""
        content: bytes = self._response.content
        return content

    def iter_raw(self) -> Iterator[bytes]:
        """The body as it comes, before content codings are undone."""
        chunks = self._response.iter_raw()
        while True:
            self._reading = _Errand(lambda: next(chunks, None), lambda _: self._response.close())
            chunk = self._reading.wait()
            self._reading = None
            if chunk is None:
                return
            yield chunk

    def close(self) -> None:
        """Give the connection back, or end it while another thread still reads from it."""
        if self._reading is None:
            self._response.close()
            return
        stream = self.extensions.get("network_stream")
        connection = None if stream is None else stream.get_extra_info("socket")
        if connection is not None:
            with suppress(OSError):
                # The method of the plain socket: that of a TLS socket is not for two threads.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        elif stream is not None:
            stream.close()  # nothing but an application in this process has no socket


class _Errand(Generic[T]):
    """A call in a thread of its own, which need not be waited for to its end."""

    def __init__(self, call: Callable[[], T], dispose: Callable[[Any], None]) -> None:
        self._call = call
        self._dispose = dispose
        """What is done with a result that nobody waits for any more."""
        self._ended = Notifier()
        self._results: list[T] = []
        """The result, once there is one."""
        self._error: BaseException | None = None
        self._mutex = threading.Lock()
        self._left = False
        # In the caller's context, of which an instrumented client takes the current span.
        run = partial(copy_context().run, self._run)
        threading.Thread(target=run, name="durable-streams-wait", daemon=True).start()

    def _run(self) -> None:
        results: list[T] = []
        try:
            results.append(self._call())
        except BaseException as error:
            self._error = error
        with self._mutex:
            self._results = results
            left = self._left
        if left:
            self._drop(results)
        self._ended.notify()

    def _drop(self, results: list[T]) -> None:
        for result in results:
            with suppress(Exception):
                self._dispose(result)

    def wait(self) -> T:
        """The result; raises what the call raised, or why there is no more waiting for it."""
        try:
            self._ended.wait(0)
        except BaseException:
            with self._mutex:
                self._left = True
                results = self._results
            self._drop(results)
            raise
        if self._error is not None:
            raise self._error
        return self._results[0]
