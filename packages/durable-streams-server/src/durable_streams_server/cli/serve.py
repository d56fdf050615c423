"""Runs a server with the settings of the command until it is told to stop."""

import asyncio
import contextlib
import logging
import signal

import click

from durable_streams_server.cli.listening import address_of, shown_url
from durable_streams_server.cli.option_groups import Settings
from durable_streams_server.cli.requests import options_of
from durable_streams_server.cli.streams import limits_of, subscriptions_of
from durable_streams_server.engine.engine import Engine
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.servers import FRONT_ENDS
from durable_streams_server.http.targets import parse_root

log = logging.getLogger("durable_streams_server.cli")


async def serve(settings: Settings) -> None:
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
                f"at {shown_url(address, port, settings['public_url'])}{root}"
            )
            await stop.wait()
