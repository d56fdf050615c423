"""A standalone server over a memory store, with bounds of the test's choosing."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from durable_streams_server import Engine
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.standalone import Bounds, StandaloneServer
from durable_streams_server.http.options import Options

sys.path.insert(0, str(Path(__file__).parent))

ROOT = "/v1/stream/"


class Running:
    """A server, what it serves, and where."""

    def __init__(self, server: StandaloneServer, mount: Mount, port: int) -> None:
        self.server = server
        self.mount = mount
        self.engine = mount.engine
        self.port = port


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def begin(bounds: Bounds | None = None, **options: Any) -> Running:
            engine = await stack.enter_async_context(Engine("memory:"))
            await engine.create("s", content_type="text/plain", data="hello")
            mount = Mount(engine, Options(**options), None)
            server = StandaloneServer(mount, ROOT, bounds)
            port = await server.listen("127.0.0.1", 0)
            stack.push_async_callback(server.stop)
            return Running(server, mount, port)

        yield begin


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    place = tmp_path_factory.mktemp("tls")
    (place / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (place / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return place / "cert.pem", place / "key.pem"
