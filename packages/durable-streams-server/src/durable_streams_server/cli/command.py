"""The command ``durable-streams-server``: one process that serves until it is told to stop."""

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import click

from durable_streams_core.errors import DurableStreamsError
from durable_streams_core.protocol import DEFAULT_PORT
from durable_streams_server import __version__
from durable_streams_server.cli.allocator import keep_large_blocks
from durable_streams_server.cli.environment import PREFIX, PortOption, check_environment
from durable_streams_server.cli.maintenance import check, export, import_
from durable_streams_server.cli.sign import sign
from durable_streams_server.engine.engine import Engine
from durable_streams_server.engine.limits import MIB, Limits
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.servers import FRONT_ENDS, Address, tls_context
from durable_streams_server.frontends.standalone import Bounds
from durable_streams_server.http.options import Options
from durable_streams_server.http.targets import parse_root
from durable_streams_server.subscriptions import SubscriptionOptions

log = logging.getLogger("durable_streams_server.cli")

_LIMITS = Limits()
_OPTIONS = Options()
_BOUNDS = Bounds()


def not_empty(_context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse the empty text that an unset variable of a shell leaves."""
    if value is not None and not value.strip():
        raise click.BadParameter(f"must not be empty; leave {parameter.opts[0]} out, or set it.")
    return value


@click.group(
    invoke_without_command=True,
    context_settings={"auto_envvar_prefix": PREFIX, "show_default": True},
    epilog="Every option can also be set in the environment, as DURABLE_STREAMS_PORT for --port.",
)
@click.option(
    "--store", default="file:./data", metavar="URL", help="memory:, file:PATH or redis://HOST."
)
@click.option(
    "--host",
    default="127.0.0.1",
    callback=not_empty,
    help="Address to listen on; 0.0.0.0 is every one of this machine.",
)
@click.option(
    "--port",
    cls=PortOption,
    default=DEFAULT_PORT,
    type=click.IntRange(0, 65535),
    help="0 picks one.",
)
@click.option(
    "--uds",
    metavar="PATH",
    callback=not_empty,
    help="Listen on this Unix socket instead of an address and port.",
)
@click.option(
    "--tls-cert",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Serve HTTPS with this certificate chain (PEM).",
)
@click.option(
    "--tls-key",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="The certificate's key (PEM), if it is in a file of its own.",
)
@click.option("--root", default="/v1/stream", help="Path under which streams live.")
@click.option("--public-url", metavar="URL", help="Where clients reach the server, if elsewhere.")
@click.option(
    "--front-end", default="standalone", type=click.Choice(sorted(FRONT_ENDS)), help="HTTP server."
)
@click.option(
    "--token",
    metavar="SECRET",
    help="Serve only requests with this bearer token. Safer in the environment than here.",
)
@click.option(
    "--cors-origin",
    multiple=True,
    default=("*",),
    metavar="ORIGIN",
    help="Browser origin that may use the server; repeat for several.",
)
@click.option(
    "--cors-credentials",
    is_flag=True,
    help="Let pages of the --cors-origin origins send cookies.",
)
@click.option(
    "--console", is_flag=True, help="Serve a page at ROOT/__ds/console to look at streams."
)
@click.option(
    "--signing-key",
    multiple=True,
    metavar="SECRET",
    help="Key of signed read URLs; repeat to rotate: the first signs, all are accepted. "
    "Safer in the environment than here.",
)
@click.option(
    "--cors-header",
    multiple=True,
    metavar="NAME",
    help="Request header that pages may send beside the usual ones; repeat for several.",
)
@click.option("--public", is_flag=True, help="Let shared caches keep pages.")
@click.option("--no-compress", is_flag=True, help="Never compress pages.")
@click.option(
    "--long-poll-timeout",
    default=_OPTIONS.long_poll_timeout,
    type=click.FloatRange(min=0, max=3600),
    metavar="SECONDS",
    help="How long a long-poll waits.",
)
@click.option(
    "--sse-rotation",
    default=_OPTIONS.sse_rotation,
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    help="How long an SSE response lasts.",
)
@click.option(
    "--sse-retry",
    default=_OPTIONS.sse_retry,
    type=click.FloatRange(min=0, max=3600),
    metavar="SECONDS",
    help="How soon a browser's EventSource reconnects.",
)
@click.option(
    "--max-body",
    default=_OPTIONS.max_body // MIB,
    type=click.IntRange(1, 1024),
    metavar="MIB",
    help="Largest append.",
)
@click.option(
    "--page-size",
    "--chunk",
    "page_size",
    default=_LIMITS.page_bytes // 1024,
    type=click.IntRange(1, 1024 * 1024),
    metavar="KIB",
    help="Size of a page of a read.",
)
@click.option(
    "--max-waiting-readers",
    default=_LIMITS.max_waiting_readers,
    type=click.IntRange(1),
    help="Live readers of one stream.",
)
@click.option(
    "--max-producers",
    default=_LIMITS.max_producers,
    type=click.IntRange(1),
    help="Producers remembered of one stream; the longest idle are forgotten.",
)
@click.option(
    "--webhook-allow",
    "webhook_allow",
    multiple=True,
    metavar="HOST|NETWORK",
    help="Receiver of webhooks to trust although it is private; repeat for several.",
)
@click.option(
    "--webhook-localhost/--no-webhook-localhost",
    default=None,
    show_default="where --host is loopback, without --public-url and --token",
    help="Allow http://localhost receivers, for development.",
)
@click.option(
    "--webhook-key-days",
    type=click.FloatRange(min=0.01),
    metavar="DAYS",
    help="Sign webhooks with a new key after so long; else only when told to.",
)
@click.option(
    "--max-connections",
    default=_BOUNDS.max_connections,
    type=click.IntRange(1),
    help="Clients at once; more are told to come again. Standalone front end only.",
)
@click.option(
    "--idle-timeout",
    default=_BOUNDS.idle_timeout,
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    help="How long a connection may be quiet between two requests. Standalone front end only.",
)
@click.option(
    "--log-level",
    default="info",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    help="Requests are logged at debug only.",
)
@click.version_option(__version__, prog_name="durable-streams-server")
@click.pass_context
def main(context: click.Context, /, **settings: Any) -> None:
    """Serve durable streams over HTTP."""
    if context.invoked_subcommand is not None:
        return
    check_environment(context.command)
    if settings["token"] is None:
        # click takes an empty variable for one that is not set; here somebody wanted a token.
        settings["token"] = os.environ.get(f"{PREFIX}_TOKEN")
    logging.basicConfig(
        level=settings["log_level"].upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    if not (settings["token"] or settings["uds"] or is_loopback_host(settings["host"])):
        log.warning(
            "Everybody who reaches %s may read, write and delete every stream. Set --token, or "
            "listen on 127.0.0.1 behind a proxy that checks access.",
            settings["host"],
        )
    allow_many_files()
    # The collector need not look at imported modules again, nor at young objects as often as it
    # does by default: requests leave no cycles behind.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    try:
        keep_large_blocks()
        loop_runner()(serve(settings))
    except DurableStreamsError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(listen_problem(error, settings)) from error


for command in check, export, import_, sign:
    main.add_command(command)


def loop_runner() -> Callable[[Any], None]:
    if sys.platform == "win32":
        return asyncio.run
    import uvloop

    return uvloop.run


def limits_of(settings: dict[str, Any]) -> Limits:
    return Limits(
        page_bytes=settings["page_size"] * 1024,
        max_waiting_readers=settings["max_waiting_readers"],
        max_producers=settings["max_producers"],
        # Together with the time that the front end waits for responses, this is less than a
        # supervisor waits before it kills.
        drain=1.5,
    )


def options_of(settings: dict[str, Any]) -> Options:
    """The options of the HTTP layer; raises ValueError for settings that contradict each other."""
    return Options(
        token=settings["token"],
        cors_origins=tuple(settings["cors_origin"]),
        cors_credentials=settings["cors_credentials"],
        console=settings["console"],
        cors_headers=tuple(settings["cors_header"]),
        public=settings["public"],
        public_url=settings["public_url"],
        max_body=settings["max_body"] * MIB,
        long_poll_timeout=settings["long_poll_timeout"],
        sse_rotation=settings["sse_rotation"],
        sse_retry=settings["sse_retry"],
        compress=not settings["no_compress"],
        health=True,
    )


def is_loopback_host(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    return host in ("localhost", "::1") or host.startswith("127.")


def subscriptions_of(settings: dict[str, Any]) -> SubscriptionOptions:
    localhost = settings["webhook_localhost"]
    if localhost is None:
        # Others reach a server that has a public URL or needs a token, whatever it listens on.
        localhost = (
            is_loopback_host(settings["host"])
            and settings["public_url"] is None
            and settings["token"] is None
        )
    return SubscriptionOptions(
        public_url=settings["public_url"],
        webhook_allow=tuple(settings["webhook_allow"]),
        webhook_localhost=localhost,
        key_days=settings["webhook_key_days"],
    )


async def serve(settings: dict[str, Any]) -> None:
    """Serve until SIGTERM or SIGINT, then end cleanly."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(signum, stop.set)
    if hasattr(signal, "SIGHUP"):
        # The end of a terminal or of a login must not end the server.
        loop.add_signal_handler(signal.SIGHUP, log.info, "SIGHUP is ignored")
    try:
        options = options_of(settings)
        root = parse_root(settings["root"])
        unstarted = Engine(
            settings["store"],
            limits=limits_of(settings),
            subscriptions=subscriptions_of(settings),
            signing_keys=settings["signing_key"],
        )
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    async with unstarted as engine:
        mount = Mount(engine, options, None)
        address = address_of(settings)
        async with FRONT_ENDS[settings["front_end"]](mount, root, address) as port:
            click.echo(
                f"Serving durable streams from {settings['store'].split('@')[-1]} "
                f"at {_shown_url(address, port, settings['public_url'])}{root}"
            )
            await stop.wait()


def address_of(settings: dict[str, Any]) -> Address:
    """Where to listen; raises :class:`click.ClickException` for a certificate that is none."""
    tls = None
    certificate, key = settings["tls_cert"], settings["tls_key"]
    if certificate is not None:
        try:
            tls = tls_context(certificate, key)
        except OSError as error:
            raise click.ClickException(
                f"{key or certificate} does not hold the certificate's key, or not in PEM: {error}"
            ) from error
    elif key is not None:
        raise click.ClickException("--tls-key needs --tls-cert, the certificate that it is of.")
    bounds = Bounds(
        max_connections=settings["max_connections"], idle_timeout=settings["idle_timeout"]
    )
    return Address(settings["host"], settings["port"], settings["uds"], tls, bounds)


def _shown_url(address: Address, port: int, public_url: str | None) -> str:
    if public_url is not None:
        return public_url.rstrip("/")
    if address.unix is not None:
        return f"unix:{address.unix} "
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{'http' if address.tls is None else 'https'}://{host}:{port}"


def allow_many_files() -> None:
    """A connection is a file: ask for as many as the system lets this user have."""
    if sys.platform == "win32":
        return
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def listen_problem(error: OSError, settings: dict[str, Any]) -> str:
    place = settings["uds"] or f"{settings['host']}:{settings['port']}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"{place} is taken by another program; stop it, or choose another --port (0 picks one)."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"This user may not listen on {place}; choose a --port above 1023."
    return f"Cannot listen on {place}: {error.strerror or error}. Check --host and --port."
