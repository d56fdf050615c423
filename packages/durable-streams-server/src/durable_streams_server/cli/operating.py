"""The options of what an operator sees, and the part of the server that shows it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import click

from durable_streams_server.cli.logs import line_handler
from durable_streams_server.cli.option_groups import OptionGroup, Settings, not_empty
from durable_streams_server.cli.rolling import is_taken, take
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.tls import Certificate
from durable_streams_server.http.handler import Page
from durable_streams_server.operations.access_log import AccessLog
from durable_streams_server.operations.clients import TrustedProxies

log = logging.getLogger("durable_streams_server.cli")

METRICS_PATH: Final = "/metrics"

OPERATIONS: Final = OptionGroup(
    "Operations",
    [
        click.Option(
            ["--metrics"],
            is_flag=True,
            help="Serve metrics for Prometheus at /metrics, to whoever reaches the server.",
        ),
        click.Option(
            ["--metrics-address"],
            metavar="HOST:PORT",
            callback=not_empty,
            help="Serve metrics at /metrics of this address and not of the server's own.",
        ),
        click.Option(
            ["--tracing"],
            is_flag=True,
            help="Export traces with OpenTelemetry, as its OTEL_* variables say.",
        ),
    ],
)


@asynccontextmanager
async def operating(
    settings: Settings, mount: Mount, root: str, certificate: Certificate | None
) -> AsyncIterator[None]:
    """Observe a mount and its certificate as the settings say, while it is served."""
    if not settings["tracing"]:
        async with _observing(settings, mount, root, certificate):
            yield
        return
    try:
        from durable_streams_server.operations.trace_export import provider_of_environment
        from durable_streams_server.operations.tracing import Tracing

        provider = provider_of_environment()
    except (ImportError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    Tracing(mount, provider=provider, proxies=TrustedProxies(settings["trusted_proxy"]))
    try:
        async with _observing(settings, mount, root, certificate):
            yield
    finally:
        # It sends what is left, which may take a while.
        await asyncio.to_thread(provider.shutdown)


@asynccontextmanager
async def _observing(
    settings: Settings, mount: Mount, root: str, certificate: Certificate | None
) -> AsyncIterator[None]:
    """Log and count the requests of a mount as the settings say."""
    lines = line_handler()
    if settings["access_log"]:
        take = None if lines is None else lines.write_entry
        mount.handler.observe(AccessLog(TrustedProxies(settings["trusted_proxy"]), take=take))
    address = settings["metrics_address"]
    if not (settings["metrics"] or address):
        yield
        return
    try:
        from durable_streams_server.operations.metrics import Exposition, MetricsCollector
    except ImportError as error:
        raise click.ClickException(str(error)) from error
    exposition = Exposition([MetricsCollector(mount, certificate=certificate, lines=lines)])
    if address is None:
        if root == "/":
            raise click.ClickException(
                "With --root / every path is that of a stream: use --metrics-address."
            )
        mount.handler.pages[METRICS_PATH] = exposition.page
        yield
        return
    async with _serving_metrics(address, exposition.page, settings["wait"]):
        yield


@asynccontextmanager
async def _serving_metrics(address: str, page: Page, seconds: float) -> AsyncIterator[None]:
    """Serve metrics at an address of their own, and meanwhile go on without them for so many
    seconds if another process has it: in a rolling update that one serves on until it is told to
    stop.
    """
    from durable_streams_server.operations.page_server import serve_page

    host, port = _host_and_port(address)
    async with AsyncExitStack() as stack:

        async def listen() -> None:
            bound = await stack.enter_async_context(serve_page(METRICS_PATH, page, host, port))
            click.echo(
                f"Serving metrics at http://{address.rpartition(':')[0]}:{bound}{METRICS_PATH}"
            )

        try:
            await listen()
        except OSError as error:
            if not (seconds and is_taken(error)):
                raise click.ClickException(_no_metrics(address, error)) from error
            later = asyncio.create_task(_listen_later(listen, seconds, address))
            stack.push_async_callback(asyncio.wait, [later])
            stack.callback(later.cancel)
        yield


async def _listen_later(
    listen: Callable[[], Awaitable[None]], seconds: float, address: str
) -> None:
    try:
        await take(listen, seconds)
    except OSError as error:
        log.warning(_no_metrics(address, error))


def _no_metrics(address: str, error: OSError) -> str:
    return (
        f"Cannot serve metrics at {address}: {error.strerror or error}. "
        "Choose another --metrics-address."
    )


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise click.ClickException(
            f"--metrics-address must be HOST:PORT, such as 127.0.0.1:9464, got {address!r}."
        )
    return host.removeprefix("[").removesuffix("]"), int(port)
