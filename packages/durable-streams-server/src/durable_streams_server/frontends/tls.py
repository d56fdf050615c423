"""The certificate of a server: read from files, and again while the server runs.

Listeners keep one context for their life. It hands each new connection to the context that was read
last, so a renewed certificate needs no new listener, and connections that are open stay.
"""

import ssl
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509


class Certificate:
    """A certificate chain and its key, from PEM files; ``key`` None: it is in the same file.

    With ``client_ca``, only clients with a certificate of one of these CAs are let in.

    Raises ``OSError`` for files that cannot be read or do not belong together.
    """

    def __init__(self, certificate: str, key: str | None, client_ca: str | None = None) -> None:
        self._files = certificate, key
        self._client_ca = client_ca
        self.context, self._trusted = self._read()
        """``context`` is what listeners take; ``_trusted`` are the CAs of clients, in PEM."""
        self._newest = self.context
        self._trusted_since = 0
        """When other CAs were read, in seconds since 1970; 0 while those of the start are."""
        self.not_after = self._read_end()
        """When the certificate expires that new connections get."""
        self.context.sni_callback = self._choose

    @property
    def label(self) -> str:
        """The name of the part, for people."""
        return f"the certificate {self._files[0]}"

    def reload(self) -> str:
        """Read the files again, and say until when the certificate is good.

        Raises ``OSError`` or ``ValueError`` and keeps the certificate in use.
        """
        (fresh, trusted), until = self._read(), self._read_end()
        self._newest, self.not_after = fresh, until
        if self._trusted != trusted:
            self._trusted, self._trusted_since = trusted, int(time.time())
        expired = " and has expired" if until < datetime.now(UTC) else ""
        return f"it is valid until {until:%Y-%m-%d %H:%M} UTC{expired}"

    def _read(self) -> tuple[ssl.SSLContext, str]:
        """A context, and the CAs of clients."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        certificate, key = self._files
        try:
            # Without a password here OpenSSL would ask for one at the terminal, and wait.
            context.load_cert_chain(certificate, key, "")
        except OSError as error:
            # OpenSSL names neither the files nor what they should hold.
            raise OSError(
                f"{certificate} must hold a certificate chain and {key or 'the same file'} its key, "
                f"both in PEM and without a passphrase, and they must belong together: {error}"
            ) from error
        return context, "" if self._client_ca is None else _demand(context, self._client_ca)

    def _read_end(self) -> datetime:
        found = x509.load_pem_x509_certificates(Path(self._files[0]).read_bytes())
        return found[0].not_valid_after_utc

    def _choose(self, connection: Any, _name: str | None, _context: ssl.SSLContext) -> int | None:
        """Called in each handshake, also in those of clients that name no server."""
        connection.context = self._newest
        # Without tickets, TLS 1.2 resumes sessions that the server remembers.
        if self._trusted_since and connection.session_reused:
            session = connection.session
            if session is None or session.time <= self._trusted_since:
                return ssl.ALERT_DESCRIPTION_BAD_CERTIFICATE
        return None


def _demand(context: ssl.SSLContext, client_ca: str) -> str:
    """Let only clients of these CAs in; returns the CAs."""
    try:
        trusted = Path(client_ca).read_text("ascii")
        context.load_verify_locations(cadata=trusted)
    except (OSError, ValueError) as error:
        raise OSError(f"{client_ca} does not hold certificates in PEM: {error}") from error
    context.verify_mode = ssl.CERT_REQUIRED
    # A ticket would let in a client whose CA is trusted no longer: until it expires, nobody looks
    # at the certificate again.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return trusted
