"""Client certificates: verified by the TLS layer, and judged by their subject."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from wire import Connection

from durable_streams_core.errors import ProtocolError
from durable_streams_server import Access, Certificate, Engine, Principal, Rights
from durable_streams_server.access.certificates import OF_OPENSSL, Certificates
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.servers import FRONT_ENDS, Address
from durable_streams_server.frontends.tls import Certificate as ServerCertificate
from durable_streams_server.http.options import Options

ROOT = "/v1/stream/"


class Authority:
    """A CA that writes certificates into files."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.path = self._write(name, self._made(self._name, self._key, ca=True), self._key)

    def issue(self, name: str, *, common: str | None = None) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example")]
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common or name))
        return self._write(name, self._made(x509.Name(attributes), key, ca=False), key)

    def _made(self, subject: x509.Name, key: Any, *, ca: bool) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _write(self, name: str, made: x509.Certificate, key: Any) -> Path:
        path = self._directory / f"{name}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + made.public_bytes(serialization.Encoding.PEM)
        )
        return path


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ca")


def der(path: Path) -> bytes:
    made = x509.load_pem_x509_certificate(path.read_bytes())
    return made.public_bytes(serialization.Encoding.DER)


async def connect(port: int, authority: Authority, certificate: Path | None) -> Connection:
    context = ssl.create_default_context(cafile=str(authority.path))
    if certificate is not None:
        context.load_cert_chain(certificate)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost"
    )
    return Connection(reader, writer)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
async def test_the_subject_of_a_certificate_is_the_principal(
    front_end: str, authority: Authority, tmp_path: Path
) -> None:
    access = Access(
        certificates=[
            Certificate("CN=backup,O=Example", Rights(read=["**"])),
            Certificate("*", Rights(all=["devices/{cn}/**"], names=True)),
        ]
    )
    server = ServerCertificate(str(authority.issue("server")), None, str(authority.path))
    async with Engine("memory:") as engine:
        mount = Mount(engine, Options(authorize=access), None)
        address = Address("127.0.0.1", 0, tls=server.context)
        async with FRONT_ENDS[front_end](mount, ROOT, address) as port:
            async with await connect(port, authority, authority.issue("d1")) as device:
                made = await device.request("PUT", f"{ROOT}devices/d1/log")
                assert made.status == 201
                refused = await device.request("PUT", f"{ROOT}devices/d2/log")
                assert (refused.status, refused.code) == (403, "forbidden")
            async with await connect(port, authority, authority.issue("backup")) as backup:
                assert (await backup.request("GET", f"{ROOT}devices/d1/log")).status == 200
                assert (await backup.request("PUT", f"{ROOT}devices/backup/x")).status == 403
            stranger = Authority(tmp_path, "stranger").issue("d1")
            for unfit in (None, stranger):
                with pytest.raises((OSError, asyncio.IncompleteReadError, EOFError)):
                    async with await connect(port, authority, unfit) as nobody:
                        await nobody.request("GET", f"{ROOT}devices/d1/log")


@pytest.mark.parametrize("common", ["*", "a/../b", "..", "**", "é"])
def test_a_common_name_adds_neither_segments_nor_wildcards(
    authority: Authority, common: str
) -> None:
    found = Certificates([Certificate("*", Rights(all=["devices/{cn}/**"], names=True))]).find(
        der(authority.issue("odd", common=common))
    )
    assert found is not None
    for path in ("devices/d1/log", "devices/b/x", "devices/a/b/x"):
        with pytest.raises(ProtocolError, match="may not"):
            found.require("read", path)


def test_a_certificate_grants_nothing_once_it_has_expired(authority: Authority) -> None:
    days = 0.0
    certificates = Certificates(
        [Certificate("*", Rights(read=["**"]))],
        clock=lambda: datetime.now(UTC).timestamp() + days * 86400,
    )
    sent = der(authority.issue("d1"))
    grant = certificates.find(sent)
    assert grant is not None
    assert grant.require("read", "a") == Principal("cert:CN=d1,O=Example")
    days = 2.0
    assert certificates.find(sent) is None


@pytest.mark.parametrize("name, oid", sorted(OF_OPENSSL.items()))
def test_a_subject_may_be_written_as_openssl_writes_it(
    name: str, oid: x509.ObjectIdentifier
) -> None:
    openssl = f"{name}=a\\, b\\C3\\BC,CN=ingest"
    meant = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "ingest"), x509.NameAttribute(oid, "a, bü")]
    )
    assert Certificate(openssl, Rights(read=["**"])).subject == meant.rfc4514_string()


def test_a_subject_without_rights_is_refused(authority: Authority) -> None:
    access = Access(certificates=[Certificate("CN=backup,O=Example", Rights(read=["**"]))])
    pem = authority.issue("d1").read_text()
    scope = {"headers": [], "extensions": {"tls": {"client_cert_chain": [pem]}}}
    with pytest.raises(ProtocolError, match="may not") as caught:
        access("read", "a", scope)
    assert caught.value.status == 403
    pem = authority.issue("backup").read_text()
    scope = {"headers": [], "extensions": {"tls": {"client_cert_chain": [pem]}}}
    assert access("read", "a", scope) == Principal("cert:CN=backup,O=Example")


def test_a_certificate_that_the_server_could_not_verify_counts_for_nothing(
    authority: Authority,
) -> None:
    access = Access(certificates=[Certificate("CN=backup,O=Example", Rights(read=["**"]))])
    pem = authority.issue("backup").read_text()
    tls = {"client_cert_chain": [pem], "client_cert_error": "self-signed certificate"}
    for extensions in ({"tls": tls}, {"tls": None}, None):
        with pytest.raises(ProtocolError) as caught:
            access("read", "a", {"headers": [], "extensions": extensions})
        assert caught.value.status == 401


@pytest.mark.parametrize("subject", ["", "backup", "CN="])
def test_a_subject_is_a_name(subject: str) -> None:
    with pytest.raises(ValueError, match="subject"):
        Certificate(subject, Rights(read=["**"]))
