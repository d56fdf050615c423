"""Measures what access rules and limits cost of a realistic append.

    python benchmarks/access.py [--rounds 300]

Every way is served by a server of its own in this process, as in in_process.py, and they take turns
of a few milliseconds each, so that other work on the machine disturbs all of them alike. The median
of each way's turns counts, and its difference to the way without anything. Every request carries
the same token, also where nobody reads it.
"""

import argparse
import asyncio
import itertools
import re
import statistics
import time
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from in_process import URL, Nowhere, to_streams
from realistic import MESSAGE, realistic_request

from durable_streams_server import (
    Access,
    Engine,
    JwtVerifier,
    Limiter,
    PrefixQuota,
    PrincipalLimits,
    Rights,
    StreamQuota,
    Token,
)
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.standalone import StandaloneServer
from durable_streams_server.frontends.standalone.connection import Connection
from durable_streams_server.http.options import Options

STREAMS = 200
AUTHORIZATION = re.compile(rb"(?i)\r\nauthorization: [^\r]*\r\n")
TURN = 100
"""Requests in one turn."""
RIGHTS = Rights(all=["r*", "chats/{sub}/**"], names=True)
KEY = rsa.generate_private_key(65537, 2048)
JWT = jwt.encode(
    {"sub": "alice", "iss": "issuer", "aud": "streams", "exp": time.time() + 86400}, KEY, "RS256"
)
ENDLESS = PrincipalLimits(appends_per_second=1e9, bytes_per_second=1e12, streams_per_hour=1e9)


def verifier() -> JwtVerifier:
    pem = KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return JwtVerifier(
        RIGHTS, key=pem.decode(), algorithms=["RS256"], issuer="issuer", audience="streams"
    )


def options_of(way: str) -> Options:
    tokens = [Token("bench", Rights(all=["r*"]), secret=JWT)]
    return Options(
        authorize={"token": Access(tokens=tokens), "jwt": Access(jwt=verifier())}.get(way),
        limiter=Limiter(ENDLESS) if way == "limits" else None,
    )


QUOTAS = (StreamQuota(path="r*", max_bytes=2**40), PrefixQuota(prefix="", max_bytes=2**50))
WAYS = ("off", "off again", "token", "jwt", "limits", "quotas")


def with_token(request: bytes) -> bytes:
    """The request with this token in place of another."""
    return AUTHORIZATION.sub(b"\r\nauthorization: Bearer " + JWT.encode() + b"\r\n", request)


def connection_to(mount: Mount) -> Connection:
    server = StandaloneServer(mount, "/v1/stream/")
    server.note_time(0.0)
    transport: Any = Nowhere()
    connection = Connection(server, secure=False)
    connection.connection_made(transport)
    for n in range(STREAMS):
        connection.data_received(with_token(realistic_request(f"{URL}{n}", "PUT", n, MESSAGE)))
    assert transport.last[9:12] == b"201", transport.last
    return connection


async def measure(rounds: int) -> None:
    engines = [Engine("memory:", quotas=QUOTAS if way == "quotas" else ()) for way in WAYS]
    for engine in engines:
        await engine.start()
    sends: list[Callable[[bytes], None]] = [
        connection_to(Mount(engine, options_of(way), None)).data_received
        for way, engine in zip(WAYS, engines, strict=True)
    ]
    requests = map(to_streams("append", STREAMS), itertools.count())
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds):
        made = [with_token(request) for request in itertools.islice(requests, TURN)]
        order = range(len(WAYS)) if number % 2 else reversed(range(len(WAYS)))
        for index in order:
            send = sends[index]
            begin = time.process_time()
            for message in made:
                send(message)
            spent[WAYS[index]].append((time.process_time() - begin) / TURN * 1e6)
    for engine in engines:
        await engine.stop()
    base = statistics.median(spent["off"])
    for way, times in spent.items():
        found = statistics.median(times)
        print(f"{way:10} {found:6.2f} us   {found - base:+6.2f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description="What access rules and limits cost.")
    parser.add_argument("--rounds", type=int, default=300)
    asyncio.run(measure(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
