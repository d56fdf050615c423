"""Client certificates: rights by the subject of a certificate that the TLS layer has verified."""

import time
from collections.abc import Callable, Iterable
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from durable_streams_server.access.grants import Grant
from durable_streams_server.access.rights import Rights
from durable_streams_server.caches import TwoGenerationCache

ANY: Final = "*"
MAX_GRANTS: Final = 1000
MAX_SUBJECT: Final = 512
OF_OPENSSL: Final = {
    "GN": NameOID.GIVEN_NAME,
    "SN": NameOID.SURNAME,
    "businessCategory": NameOID.BUSINESS_CATEGORY,
    "dnQualifier": NameOID.DN_QUALIFIER,
    "emailAddress": NameOID.EMAIL_ADDRESS,
    "initials": NameOID.INITIALS,
    "organizationIdentifier": NameOID.ORGANIZATION_IDENTIFIER,
    "postalCode": NameOID.POSTAL_CODE,
    "pseudonym": NameOID.PSEUDONYM,
    "serialNumber": NameOID.SERIAL_NUMBER,
    "street": NameOID.STREET_ADDRESS,
    "title": NameOID.TITLE,
}
"""Attributes that RFC 4514 does not name, as ``openssl x509 -nameopt RFC2253`` writes them."""


class Certificate:
    """The rights of one subject, or of every certificate.

    >>> Certificate("CN=ingest,O=Example", Rights(write=["logs/**"])).subject
    'CN=ingest,O=Example'

    Args:
        subject: the whole subject as RFC 4514 writes it, the common name first in most; ``*`` is
            every certificate that the CA has issued.
        rights: what it permits. ``{cn}`` in a pattern is the common name.

    """

    __slots__ = ("rights", "subject")

    def __init__(self, subject: str, rights: Rights) -> None:
        if rights.names - {"cn"}:
            raise ValueError(
                f"The only name in the patterns of a certificate is {{cn}}: {subject}."
            )
        if subject != ANY:
            try:
                if not subject:
                    raise ValueError("it is empty")
                subject = x509.Name.from_rfc4514_string(subject, OF_OPENSSL).rfc4514_string()
            except ValueError as error:
                raise ValueError(
                    f"subject must be * or a name such as CN=ingest,O=Example, got {subject!r}."
                ) from error
        self.subject = subject
        self.rights = rights


class Certificates:
    """Finds what a certificate grants."""

    def __init__(
        self, certificates: Iterable[Certificate], *, clock: Callable[[], float] = time.time
    ) -> None:
        """Raises ``ValueError`` for two that have one subject."""
        self._rights: dict[str, Rights] = {}
        for certificate in certificates:
            if certificate.subject in self._rights:
                raise ValueError(f"The subject {certificate.subject!r} has rights twice.")
            self._rights[certificate.subject] = certificate.rights
        self._clock = clock
        self._grants: TwoGenerationCache[bytes, tuple[Grant, float]] = TwoGenerationCache(
            MAX_GRANTS
        )

    def __bool__(self) -> bool:
        return bool(self._rights)

    def find(self, der: bytes) -> Grant | None:
        """The grant of a certificate (DER); None if its subject has no rights, or if it has expired
        since its connection was made.
        """
        known = self._grants.get(der)
        if known is None:
            known = self._read(der)
            if known is None:
                return None
            self._grants.add(der, known)
        grant, until = known
        return grant if self._clock() < until else None

    def _read(self, der: bytes) -> tuple[Grant, float] | None:
        certificate = x509.load_der_x509_certificate(der)
        name = certificate.subject
        subject = name.rfc4514_string()
        rights = self._rights.get(subject) or self._rights.get(ANY)
        if rights is None or not (0 < len(subject) <= MAX_SUBJECT and subject.isprintable()):
            return None
        common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
        values = {"cn": common[0].value} if len(common) == 1 else {}
        grant = Grant(f"cert:{subject}", rights.bind(values))
        return grant, certificate.not_valid_after_utc.timestamp()
