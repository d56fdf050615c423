"""A server that speaks HTTP/2 over TLS: one live stream, and appends that succeed."""

import asyncio
import datetime as dt
import ssl
import threading
from pathlib import Path
from typing import Any, Self

import h2.config
import h2.connection
import h2.events
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hostile import close_listening

CONTROL = b'event: control\ndata: {"streamNextOffset":"00000000","upToDate":true}\n\n'


class H2Server:
    """Use as a context manager. ``appends`` counts appends, ``live`` open event streams."""

    def __init__(self, folder: Path) -> None:
        self.appends = 0
        self.live = 0
        self.port = 0
        certificate = folder / "certificate.pem"
        certificate.write_bytes(_certificate())
        self.trust = ssl.create_default_context(cafile=str(certificate))
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate)
        self._context.set_alpn_protocols(["h2"])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._transports: set[asyncio.BaseTransport] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/"

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(60)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        self._server = await self._loop.create_server(
            lambda: _Connection(self, self._transports), "127.0.0.1", 0, ssl=self._context
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        assert self._server is not None
        await close_listening(self._server)
        # Also connections that are only being accepted, whose handshake is under way.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others)
        for transport in list(self._transports):
            transport.abort()  # type: ignore[attr-defined]
        while self._transports:
            await asyncio.sleep(0.001)


class _Connection(asyncio.Protocol):
    def __init__(self, server: H2Server, transports: set[asyncio.BaseTransport]) -> None:
        self._server = server
        self._transports = transports
        self._live = 0
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self._h2 = h2.connection.H2Connection(config=config)
        self._requests: dict[int, dict[str, str]] = {}

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._transports.add(transport)
        self._h2.initiate_connection()
        transport.write(self._h2.data_to_send())

    def connection_lost(self, error: Exception | None) -> None:
        self._transports.discard(self._transport)
        self._server.live -= self._live

    def data_received(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self._requests[event.stream_id] = dict(event.headers)  # type: ignore[arg-type]
            elif isinstance(event, h2.events.StreamEnded):
                self._answer(event.stream_id, self._requests.pop(event.stream_id))
        self._transport.write(self._h2.data_to_send())

    def _answer(self, stream: int, request: dict[str, str]) -> None:
        headers = [
            (":status", "200"),
            ("stream-next-offset", "00000000"),
            ("stream-up-to-date", "true"),
            ("content-type", "application/octet-stream"),
        ]
        if request[":method"] == "POST":
            self._server.appends += 1
        if "live=sse" in request[":path"]:
            self._live += 1
            self._server.live += 1
            headers[-1] = ("content-type", "text/event-stream")
            self._h2.send_headers(stream, headers)
            self._h2.send_data(stream, CONTROL)
        else:
            self._h2.send_headers(stream, headers, end_stream=True)


def _certificate() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return made.public_bytes(serialization.Encoding.PEM) + secret
