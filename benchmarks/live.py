"""Live readers, and appends on a schedule; light enough not to be what is measured.

The readers are sockets in one epoll in a thread, and a message costs reading and counting it. The
appends are an open loop: each is sent when it is due, whether those before it were answered or
not, and what is measured counts from then. A server that falls behind is seen to.
"""

import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from urllib.parse import urlsplit

import httptools
from load import Load, request

MESSAGE = b"x" * 99 + b"|"
"""Its end is counted, however the server puts messages into events and reads cut them."""
_END = b"|"


class Schedule:
    """Appends spread evenly over time and over streams: ``rate`` a second, of all together."""

    def __init__(self, rate: float, streams: int, seconds: float) -> None:
        self.rate = rate
        self.streams = streams
        self.total = int(rate * seconds)
        self.begin = time.perf_counter() + 0.1

    def due(self, number: int) -> float:
        return self.begin + number / self.rate


class LiveReaders:
    """SSE readers, the n-th of them a reader of stream ``n % streams``."""

    def __init__(self) -> None:
        self.load = Load()
        self.last = 0.0
        self.lost = 0
        self._schedule: Schedule | None = None
        self._epoll = select.epoll()
        self._sockets: list[socket.socket] = []
        # By descriptor: the beginning of an answer, until its first control event.
        self._begun: dict[int, bytes] = {}
        # By descriptor: the number of the next message.
        self._next: dict[int, int] = {}
        self._hears: dict[int, Callable[[bytes], None]] = {}
        self._closed = False

        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def connect(self, urls: list[str]) -> None:
        """Be there, each reader after its first control event."""
        streams = len(set(urls))
        for first in range(0, len(urls), 200):
            for n, url in enumerate(urls[first : first + 200], first):
                place = urlsplit(url)
                made = socket.create_connection((place.hostname or "", place.port or 80))
                self._sockets.append(made)
                self._begun[made.fileno()] = b""
                self._next[made.fileno()] = n % streams
                self._epoll.register(made, select.EPOLLIN)
                made.sendall(request(url))
            deadline = time.monotonic() + 60
            while self._begun and not self.lost and time.monotonic() < deadline:
                time.sleep(0.01)
        if self._begun or self.lost:
            raise RuntimeError(f"{len(self._begun)} readers did not begin, {self.lost} were lost")

    def hear(self, made: socket.socket, heard: Callable[[bytes], None]) -> None:
        """Call with what comes over another connection."""
        self._sockets.append(made)
        self._hears[made.fileno()] = heard
        self._epoll.register(made, select.EPOLLIN)

    def expect(self, schedule: Schedule) -> None:
        """Measure from now on."""
        self._schedule = schedule

    def _run(self) -> None:
        buffer = bytearray(256 * 1024)
        wanted = [buffer]
        poll, read, clock, count = self._epoll.poll, os.readv, time.perf_counter, buffer.count
        numbers = self._next
        while not self._closed:
            for descriptor, _ in poll(0.1):
                try:
                    size = read(descriptor, wanted)
                except OSError:
                    size = 0
                if not size:
                    self._lose(descriptor)
                elif descriptor in self._hears:
                    self._hears[descriptor](bytes(buffer[:size]))
                elif descriptor in self._begun:
                    self._begin(descriptor, bytes(buffer[:size]))
                else:
                    came = count(_END, 0, size)
                    if came:
                        now = clock()
                        schedule = self._schedule
                        assert schedule is not None
                        number = numbers[descriptor]
                        for _ in range(came):
                            self.load.latencies.append(now - schedule.due(number))
                            number += schedule.streams
                        numbers[descriptor] = number
                        self.load.ok += came
                        self.last = now

    def _begin(self, descriptor: int, data: bytes) -> None:
        head = self._begun[descriptor] = self._begun[descriptor] + data
        if b"event: control" in head:
            del self._begun[descriptor]

    def _lose(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)
        self.lost += descriptor in self._next

    def close(self) -> None:
        self._closed = True
        self._thread.join()
        for made in self._sockets:
            made.close()
        self._epoll.close()


class Appender:
    """One connection that sends what it is told to, and measures the answers."""

    def __init__(self, readers: LiveReaders, url: str, load: Load) -> None:
        place = urlsplit(url)
        self._socket = socket.create_connection((place.hostname or "", place.port or 80))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._parser = httptools.HttpResponseParser(self)
        self._load = load
        self._due: deque[float] = deque()
        readers.hear(self._socket, self._parser.feed_data)

    def send(self, message: bytes, due: float) -> None:
        self._due.append(due)
        self._socket.sendall(message)

    def on_message_complete(self) -> None:
        taken = time.perf_counter() - self._due.popleft()
        if 200 <= self._parser.get_status_code() < 300:
            self._load.ok += 1
            self._load.latencies.append(taken)
        else:
            self._load.failed += 1


def append_on_schedule(
    readers: LiveReaders,
    schedule: Schedule,
    urls: list[str],
    messages: list[bytes],
    connections: int,
) -> Load:
    """Send everything when it is due; returns when all is answered, or after 30 s of patience.

    Appends to one stream go over one connection, so they stay in order.
    """
    load = Load()
    appenders = [Appender(readers, urls[0], load) for _ in range(connections)]
    for number in range(schedule.total):
        stream = number % schedule.streams
        due = schedule.due(number)
        pause = due - time.perf_counter()
        if pause > 0:
            time.sleep(pause)
        appenders[stream % connections].send(messages[stream], due)
    patience = time.perf_counter() + 30
    while load.ok + load.failed < schedule.total and time.perf_counter() < patience:
        time.sleep(0.001)
    load.seconds = time.perf_counter() - schedule.begin
    load.failed = schedule.total - load.ok
    return load
