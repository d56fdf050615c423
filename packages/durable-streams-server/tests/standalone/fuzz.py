"""A fuzz target: mutated requests against the glue around the parser, with no socket in between.

    python fuzz.py [--seconds 120] [--seed N]

Every input goes to three connections: whole, cut at random places, and a byte at a time. Whatever
comes in, a connection must not raise, must write nothing but complete answers with statuses of
ours, and must say the same however its input was cut. Every request that the receiver reads must
be one that llhttp reads in the same way. What fails is printed with its seed and its bytes.
"""

import argparse
import asyncio
import contextlib
import random
import re
import sys
import time
from pathlib import Path
from typing import Any

import httptools

sys.path.insert(0, str(Path(__file__).parent))

import itertools

from raw_corpus import CASES

from durable_streams_core.errors import ProtocolError
from durable_streams_server import Engine
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.standalone import Bounds, StandaloneServer
from durable_streams_server.frontends.standalone.connection import Awaited, Connection
from durable_streams_server.frontends.standalone.receiver import Event, Receiver
from durable_streams_server.frontends.standalone.request_head import ReceivedHead
from durable_streams_server.http.messages import KNOWN_HEADERS, fold_headers
from durable_streams_server.http.options import Options
from durable_streams_server.stores.memory import MemoryStore

TOKENS = [
    b"\r\n", b"\r", b"\n", b"\r\n\r\n", b"\x00", b" ", b"\t", b":", b",", b";", b"\xff", b"0", b"-1",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n",
    b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Connection: upgrade\r\n",
    b"Upgrade: x\r\n", b"Host: y\r\n", b"5\r\nabcde\r\n", b"0\r\n\r\n", b"ffffffff\r\n",
    b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"GET ", b"POST ", b"HEAD ", b"PUT ", b"CONNECT ",
    b"OPTIONS ", b"/v1/stream/s", b"?offset=-1", b"?offset=now&live=long-poll", b"%2f", b"#", b"..",
    b"Stream-Closed: true\r\n", b"X: " + b"y" * 3000 + b"\r\n", b"z" * 9000,
]  # fmt: skip

STATUSES = frozenset(
    (
        200,
        201,
        204,
        304,
        400,
        401,
        403,
        404,
        405,
        408,
        409,
        410,
        411,
        412,
        413,
        414,
        415,
        417,
        429,
        431,
        501,
        503,
        505,
    )
)
REFUSALS = frozenset((400, 405, 414, 431, 501, 505))


def mutated(dice: random.Random) -> bytes:
    """One to three cases of the corpus with some damage."""
    data = b"".join(dice.choice(CASES).raw for _ in range(dice.randint(1, 3)))
    return damaged(data, dice, dice.choice((0, 1, 1, 2, 3, 8)))


def damaged(raw: bytes, dice: random.Random, times: int) -> bytes:
    data = bytearray(raw)
    for _ in range(times):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(6):
            case 0:
                data[at:at] = dice.choice(TOKENS)
            case 1:
                del data[at : at + dice.randint(1, 20)]
            case 2 if at < len(data):
                data[at] = dice.randrange(256)
            case 3:
                other = dice.choice(CASES).raw
                begin = dice.randrange(len(other))
                data[at:at] = other[begin : begin + dice.randint(1, 60)]
            case 4:
                begin = dice.randrange(len(data) + 1)
                data[at:at] = data[begin : begin + dice.randint(1, 80)]
            case _:
                data[at : at + 4] = dice.choice(TOKENS)
    return bytes(data)


class Wire:
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closing = False
        self.reading = True

    def write(self, data: bytes) -> None:
        assert not self.closing, "a write after the close"
        self.sent.append(bytes(data))

    def close(self) -> None:
        self.closing = True

    abort = close

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


async def answers(pieces: list[bytes]) -> tuple[list[Any], bool]:
    """The responses of a fresh server to some input, and whether the connection is over."""
    options = Options(long_poll_timeout=0.001, max_body=5000)
    async with Engine(MemoryStore(clock=lambda: 1_800_000_000_000)) as engine:
        await engine.create("s", content_type="text/plain", data="hello")
        mount = Mount(engine, options, None)
        server = StandaloneServer(mount, "/v1/stream/", Bounds(max_header=2500, max_target=500))
        server.note_time(0)
        connection = Connection(server, secure=False)
        wire: Any = Wire()
        connection.connection_made(wire)
        for piece in pieces:
            if wire.closing:
                break
            connection.data_received(piece)
        # What waits for a commit or a poll's time limit comes a little later.
        for _ in range(200):
            if connection.awaited is not Awaited.RESPONSE or wire.closing:
                break
            await asyncio.sleep(0.0005)
        over = wire.closing or connection.awaited is Awaited.END
        if not wire.closing and not connection.eof_received():
            wire.closing = True
        connection.connection_lost(None)
        assert not len(engine.fanout), "a reader is left"
        mount.handler.close()
    return comparable(b"".join(wire.sent)), over


def comparable(data: bytes) -> list[Any]:
    """Statuses, headers and bodies; raises if an answer is incomplete."""
    found: list[Any] = []
    rest = data
    while rest:
        if rest.startswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
            rest = rest[25:]
            continue
        head, end, rest = rest.partition(b"\r\n\r\n")
        assert end, "an incomplete head"
        first, *lines = head.split(b"\r\n")
        status = int(first.split(b" ")[1])
        assert first.startswith(b"HTTP/1.1 ")
        assert status in STATUSES, f"status {status}"
        fields = dict(line.split(b": ", 1) for line in lines)
        assert len(fields) == len(lines), "a header twice"
        length = int(fields.get(b"content-length", b"0"))
        assert len(rest) >= length, "an incomplete body"
        body, rest = rest[:length], rest[length:]
        for name in (b"date", b"etag", b"content-length"):
            fields.pop(name, None)
        if status in REFUSALS and fields.get(b"connection") == b"close":
            # Which of its faults is met first depends on how it was cut.
            found.append("refused")
        else:
            found.append((status, sorted(fields.items()), body))
    return found


class Request:
    """A request as a parser reads it."""

    def __init__(self) -> None:
        self.method = ""
        self.target = self.body = b""
        self.pairs: list[tuple[bytes, bytes]] = []
        self.keep_alive = True
        self.complete = False

    def comparable(self) -> tuple[object, ...]:
        folded = fold_headers((name, value.strip()) for name, value in self.pairs)
        known = {name: value.strip() for name, value in folded.items() if name in KNOWN_HEADERS}
        return self.method, self.target, known, self.keep_alive, self.body


class Llhttp:
    """What llhttp reads of some input, trailers left out."""

    def __init__(self, data: bytes) -> None:
        self.requests: list[Request] = []
        self._in_head = False
        self._parser = parser = httptools.HttpRequestParser(self)
        with contextlib.suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
            parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.requests.append(Request())
        self._in_head = True

    def on_url(self, piece: bytes) -> None:
        self.requests[-1].target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self.requests[-1].pairs.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self.requests[-1].method = self._parser.get_method().decode()
        self.requests[-1].keep_alive = self._parser.should_keep_alive()

    def on_body(self, piece: bytes) -> None:
        self.requests[-1].body += piece

    def on_message_complete(self) -> None:
        self.requests[-1].complete = True


def received(pieces: list[bytes]) -> list[Request]:
    """The complete requests that the receiver reads, up to the last that the connection takes."""
    receiver = Receiver(Bounds())
    found: list[Request] = []
    for piece in pieces:
        receiver.feed(piece)
        while (event := receiver.next()) is not None:
            if isinstance(event, ProtocolError) or (found and is_last(found[-1])):
                return [request for request in found if request.complete]
            note(event, found)
    return [request for request in found if request.complete]


def is_last(request: Request) -> bool:
    return request.complete and not request.keep_alive


def note(event: Event, found: list[Request]) -> None:
    if isinstance(event, ReceivedHead):
        request = Request()
        request.method, request.target = event.method, event.target.encode()
        request.pairs = list(event.all_headers().items())
        request.keep_alive = event.keep_alive
        if event.body is not None:
            request.body, request.complete = event.body, True
        found.append(request)
    elif isinstance(event, bytes):
        found[-1].body += event
    else:
        found[-1].complete = True


def check(data: bytes, dice: random.Random) -> int:
    """Assert that llhttp reads the same requests; returns how many were read."""
    # llhttp reads no body behind an offered upgrade.
    data = re.sub(rb"(?i)upgrade", b"xxgrade", data)
    requests = received([data])
    assert [each.comparable() for each in received(cut(data, dice))] == [
        each.comparable() for each in requests
    ], "the receiver reads something else when the input is cut"
    others = Llhttp(data).requests
    for request, other in itertools.zip_longest(requests, others[: len(requests)]):
        if not request.target.startswith(b"/") and (other is None or not other.complete):
            # llhttp refuses what is not a URL; here that is a refusal of one request.
            break
        assert other is not None, "llhttp refuses what was read"
        assert other.complete, "llhttp refuses what was read"
        assert request.comparable() == other.comparable()
    return len(requests)


def cut(data: bytes, dice: random.Random) -> list[bytes]:
    places = sorted(dice.randrange(len(data) + 1) for _ in range(dice.randint(1, 6)))
    edges = [0, *places, len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a != b]


async def responses_to(data: bytes, pieces: list[bytes]) -> object:
    """What may not depend on how the input is cut."""
    found, over = await answers(pieces)
    if re.search(rb"(?i)\nexpect:", data) is None:
        return found, over
    # A body that has not been sent when its request is refused may never come: the connection ends
    # then, and goes on where the body was there.
    refused = (n for n, each in enumerate(found) if each == "refused" or each[0] >= 400)
    first = next(refused, None)
    return (found, over) if first is None else (found[:first], "refused")


async def one(seed: int) -> int:
    dice = random.Random(seed)
    data = mutated(dice)
    try:
        whole = await responses_to(data, [data])
        # Bytes behind the last answer do not count: they may come before or after it.
        pieces = cut(data, dice)
        assert await responses_to(data, pieces) == whole, "cutting it makes a difference"
        if len(data) < 2000:
            bytewise = [data[n : n + 1] for n in range(len(data))]
            assert await responses_to(data, bytewise) == whole, "byte by byte it makes a difference"
        read = check(data, dice)
        for _ in range(100):
            data = dice.choice(CASES).raw
            if dice.random() < 0.5:
                data = damaged(data, dice, dice.randint(1, 2))
            read += check(data, dice)
        return read
    except BaseException:
        sys.stderr.write(f"seed {seed}: {data!r}\n")
        raise


async def fuzz(seconds: float, seed: int) -> None:
    end = time.monotonic() + seconds
    begin = seed
    read = 0
    while time.monotonic() < end:
        read += await one(seed)
        seed += 1
    sys.stdout.write(
        f"{seed - begin} inputs from seed {begin} on, {read} requests read as llhttp does: no fault\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    asyncio.run(fuzz(options.seconds, options.seed))


if __name__ == "__main__":
    main()
