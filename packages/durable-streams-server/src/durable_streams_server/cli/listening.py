"""The options that say where the server listens and what a connection is given."""

import errno
import socket
from typing import Final

import click

from durable_streams_core.protocol import DEFAULT_PORT
from durable_streams_server.cli.environment import PortOption
from durable_streams_server.cli.option_groups import OptionGroup, Settings, not_empty
from durable_streams_server.frontends.servers import FRONT_ENDS, Address
from durable_streams_server.frontends.sockets import inherit
from durable_streams_server.frontends.standalone import Bounds
from durable_streams_server.frontends.tls import Certificate

_BOUNDS: Final = Bounds()

LISTENING: Final = OptionGroup(
    "Listening",
    [
        click.Option(
            ["--host"],
            default="127.0.0.1",
            callback=not_empty,
            help="Address to listen on; 0.0.0.0 is every one of this machine.",
        ),
        PortOption(
            ["--port"],
            default=DEFAULT_PORT,
            type=click.IntRange(0, 65535),
            help="0 picks one.",
        ),
        click.Option(
            ["--uds"],
            metavar="PATH",
            callback=not_empty,
            help="Listen on this Unix socket instead of an address and port.",
        ),
        click.Option(
            ["--fd"],
            metavar="NUMBER",
            type=click.IntRange(0),
            help="Serve on the listening socket that a supervisor hands over under this "
            "descriptor, and accept nothing before the store is open. With systemd it is 3.",
        ),
        click.Option(
            ["--tls-cert"],
            metavar="FILE",
            type=click.Path(exists=True, dir_okay=False),
            help="Serve HTTPS with this certificate chain (PEM).",
        ),
        click.Option(
            ["--tls-key"],
            metavar="FILE",
            type=click.Path(exists=True, dir_okay=False),
            help="The certificate's key (PEM), if it is in a file of its own.",
        ),
        click.Option(
            ["--tls-client-ca"],
            metavar="FILE",
            type=click.Path(exists=True, dir_okay=False),
            help="Take only clients with a certificate of one of these CAs (PEM). Its subject is the "
            "principal of access rules and limits.",
        ),
        click.Option(["--root"], default="/v1/stream", help="Path under which streams live."),
        click.Option(
            ["--public-url"], metavar="URL", help="Where clients reach the server, if elsewhere."
        ),
        click.Option(
            ["--front-end"],
            default="standalone",
            type=click.Choice(sorted(FRONT_ENDS)),
            help="HTTP server.",
        ),
        click.Option(
            ["--max-connections"],
            default=_BOUNDS.max_connections,
            type=click.IntRange(1),
            help="Clients at once; more are told to come again. Standalone front end only.",
        ),
        click.Option(
            ["--idle-timeout"],
            default=_BOUNDS.idle_timeout,
            type=click.FloatRange(min=1),
            metavar="SECONDS",
            help="How long a connection may be quiet between two requests. Standalone front end "
            "only.",
        ),
    ],
)


def certificate_of(settings: Settings) -> Certificate | None:
    """The certificate of HTTPS; raises :class:`click.ClickException` where it is none."""
    certificate, key = settings["tls_cert"], settings["tls_key"]
    client_ca = settings["tls_client_ca"]
    if certificate is None:
        if client_ca is not None:
            raise click.ClickException(
                "--tls-client-ca needs --tls-cert: clients show certificates over HTTPS only."
            )
        if key is not None:
            raise click.ClickException("--tls-key needs --tls-cert, the certificate that it is of.")
        return None
    try:
        return Certificate(certificate, key, client_ca)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def address_of(settings: Settings, certificate: Certificate | None) -> Address:
    """Where to listen; raises :class:`click.ClickException` for a descriptor that does not."""
    bounds = Bounds(
        max_connections=settings["max_connections"], idle_timeout=settings["idle_timeout"]
    )
    inherited: tuple[socket.socket, ...] = ()
    if settings["fd"] is not None:
        try:
            inherited = (inherit(settings["fd"]),)
        except OSError as error:
            raise click.ClickException(
                f"Descriptor {settings['fd']} is not a listening socket ({error.strerror}): start "
                "this command from a supervisor that hands one over, or leave --fd out."
            ) from error
    tls = None if certificate is None else certificate.context
    return Address(settings["host"], settings["port"], settings["uds"], tls, bounds, inherited)


def is_loopback_host(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    return host in ("localhost", "::1") or host.startswith("127.")


def shown_url(address: Address, port: int, public_url: str | None) -> str:
    """The URL, without the root, that a person is told to use."""
    if public_url is not None:
        return public_url.rstrip("/")
    if address.unix is not None:
        return f"unix:{address.unix} "
    if address.listeners and port == 0:
        return "the socket that was handed over "
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{'http' if address.tls is None else 'https'}://{host}:{port}"


def listen_problem(error: OSError, settings: Settings) -> str:
    """A sentence that says what is wrong with the address and what to do."""
    place = settings["uds"] or f"{settings['host']}:{settings['port']}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"{place} is taken by another program; stop it, or choose another --port (0 picks one)."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"This user may not listen on {place}; choose a --port above 1023."
    return f"Cannot listen on {place}: {error.strerror or error}. Check --host and --port."
