"""The client's own connections, sync and async, over TLS."""

import datetime as dt
import ipaddress
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from durable_streams_client import AsyncClient, Cancelled, Client, ConnectFailed, RetryPolicy


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A certificate for 127.0.0.1 that signs itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture(scope="module")
def url(certificate: Any) -> Iterator[Any]:
    command = [sys.executable, "-m", "durable_streams_server", "--port", "0", "--store", "memory:"]
    with subprocess.Popen(
        [*command, "--tls-cert", str(certificate)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout:
            if found := re.search(r"127\.0\.0\.1:\d+", line):
                break
        else:
            pytest.fail("the server did not start")
        yield f"https://{found[0]}/v1/stream/"
        process.terminate()


@pytest.fixture(scope="module")
def context(certificate: Any) -> Any:
    return ssl.create_default_context(cafile=certificate)


def test_sync(url: Any, context: Any) -> None:
    with Client(url, verify=context) as client:
        stream = client.stream("sync")
        stream.create()
        stream.append(b"x" * 5_000_000)
        assert len(stream.read().read_bytes()) == 5_000_000
        reader = stream.follow()
        next(reader)
        while not reader.up_to_date:
            next(reader)
        threading.Timer(0.2, reader.cancel).start()
        with pytest.raises(Cancelled):
            next(reader)


async def test_async(url: Any, context: Any) -> None:
    async with AsyncClient(url, verify=context) as client:
        stream = client.stream("async")
        await stream.create()
        await stream.append(b"x" * 5_000_000)
        await stream.close_stream()
        assert len(await stream.follow().read_bytes()) == 5_000_000


async def test_a_certificate_that_nobody_knows(url: Any) -> None:
    policy = RetryPolicy(initial=0.001, attempts=2)
    with Client(url, retry=policy) as client, pytest.raises(ConnectFailed, match="CERTIFICATE"):
        client.stream("a").head()
    async with AsyncClient(url, retry=policy) as client:
        with pytest.raises(ConnectFailed, match="CERTIFICATE"):
            await client.stream("a").head()
