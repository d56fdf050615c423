"""Client certificates in the TLS handshake: who is let in, also after the CAs were replaced."""

import contextlib
import ssl
from pathlib import Path

import pytest
from server_certificates import write_certificate

from durable_streams_server.frontends.tls import Certificate

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Files:
    """A server's certificate, two clients', and the file of the CA that is trusted."""

    def __init__(self, directory: Path) -> None:
        self.server, self.ca = directory / "server.pem", directory / "ca.pem"
        self.ours, self.theirs = directory / "ours.pem", directory / "theirs.pem"
        for serial, each in enumerate((self.server, self.ours, self.theirs), start=1):
            write_certificate(each, serial)

    def trust(self, client: Path) -> None:
        """A certificate that signs itself is its own CA."""
        self.ca.write_bytes(client.read_bytes())


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(tmp_path)
    files.trust(files.ours)
    return files


def client_with(certificate: Path, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    context.load_cert_chain(certificate)
    return context


def connect(
    certificate: Certificate, client: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of a connection after a handshake and one byte; raises ``SSLError``."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = certificate.context.wrap_bio(to_server, to_client, server_side=True)
    own = client.wrap_bio(to_client, to_server, server_hostname="localhost", session=session)
    for _ in range(4):
        for end in (own, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    server.write(b"x")
    # The client learns of a session with the first data.
    assert own.read() == b"x"
    return own, server


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_a_client_of_the_ca_is_let_in_and_another_is_not(
    files: Files, version: ssl.TLSVersion
) -> None:
    certificate = Certificate(str(files.server), None, str(files.ca))
    _, server = connect(certificate, client_with(files.ours, version))
    assert server.getpeercert(binary_form=True)
    with pytest.raises(ssl.SSLError):
        connect(certificate, client_with(files.theirs, version))


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_a_client_whose_ca_was_withdrawn_cannot_resume_its_session(
    files: Files, version: ssl.TLSVersion
) -> None:
    certificate = Certificate(str(files.server), None, str(files.ca))
    client = client_with(files.ours, version)
    before, _ = connect(certificate, client)
    files.trust(files.theirs)
    certificate.reload()
    with pytest.raises(ssl.SSLError):
        connect(certificate, client, before.session)
    connect(certificate, client_with(files.theirs, version))


def test_a_ca_that_cannot_be_read_is_named_and_the_old_one_stays(files: Files) -> None:
    certificate = Certificate(str(files.server), None, str(files.ca))
    for broken in (b"", b"junk", b"\xff"):
        files.ca.write_bytes(broken)
        with pytest.raises(OSError, match=r"ca\.pem does not hold certificates in PEM"):
            certificate.reload()
    files.ca.unlink()
    with pytest.raises(OSError, match=r"ca\.pem does not hold certificates in PEM"):
        certificate.reload()
    connect(certificate, client_with(files.ours, ssl.TLSVersion.TLSv1_3))
